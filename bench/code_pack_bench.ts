import { pairStages } from "../src/core/codec.ts";
import { codePackShapes } from "../src/core/shapes.ts";
import { encodeFields } from "../src/kernels/code_encode.ts";
import { CodePack } from "../src/kernels/code_pack.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu } = await bench(), tokens = 8192;
for (const [heads, headDim, stages] of [[4, 64, 10], [8, 128, 21]] as const) {
  const codec = pairStages(headDim, stages, false);
  const shapes = codePackShapes({ codec, heads, capacity: tokens, codeBlocks: tokens / 32 });
  using raw = gpu.alloc("raw", "u32", shapes.raw), codes = gpu.alloc("codes", "u32", shapes.codes);
  using fields = gpu.upload("fields", "u32", shapes.fields, encodeFields(codec));
  const op = await CodePack.create(gpu, codec), io = { raw, fields, codes };
  await time(`code_pack ${heads} heads, ${stages} stages`, traffic(io), (c) => op.encode(c, io, { tokens, block: 0 }));
}
