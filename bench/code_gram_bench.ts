import { pairStages } from "../src/core/codec.ts";
import { codeGramShapes } from "../src/core/shapes.ts";
import { CodeGram } from "../src/kernels/code_gram.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu } = await bench();
for (const [heads, headDim, stages] of [[4, 64, 1], [8, 128, 22]] as const) {
  const codec = pairStages(headDim, stages, true), shapes = codeGramShapes(heads, codec);
  using table = gpu.alloc("table", "u32", shapes.table), gram = gpu.alloc("gram", "f32", shapes.gram);
  const op = await CodeGram.create(gpu, codec), io = { table, gram };
  await time(`code_gram ${heads} heads of ${headDim}, ${stages} stages`, traffic(io), (c) => op.encode(c, io, heads));
}
