import { attnMergeShapes } from "../src/core/shapes.ts";
import { AttnMerge } from "../src/kernels/attn_merge.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu } = await bench();
for (const [rows, splits] of [[32, 16], [32, 128], [32, 256], [65536, 2]] as const) {
  const dims = { rows, splits, headDim: 128 }, shapes = attnMergeShapes(dims);
  const op = await AttnMerge.create(gpu, dims.headDim, { splits });
  using partialO = gpu.alloc("partial_o", "f32", shapes.partialO);
  using partialMd = gpu.alloc("partial_md", "f32", shapes.partialMd);
  using out = gpu.alloc("out", "f32", shapes.out);
  const io = { partialO, partialMd, out };
  await time(`attn_merge rows=${rows} splits=${splits}`, traffic(io), (commands) => op.encode(commands, io, dims));
}
