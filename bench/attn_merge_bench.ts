import { attnMergeShapes } from "../src/core/shapes.ts";
import { AttnMerge } from "../src/kernels/attn_merge.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu } = await bench();
for (const splits of [16, 128]) {
  const dims = { rows: 32, splits, headDim: 128 }, shapes = attnMergeShapes(dims);
  const op = await AttnMerge.create(gpu, dims.headDim);
  using partialO = gpu.alloc("partial_o", "f32", shapes.partialO);
  using partialMd = gpu.alloc("partial_md", "f32", shapes.partialMd);
  using out = gpu.alloc("out", "f32", shapes.out);
  const io = { partialO, partialMd, out };
  await time(`attn_merge rows=32 splits=${splits}`, traffic(io), (commands) => op.encode(commands, io, dims));
}
