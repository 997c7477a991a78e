import type { Stage } from "../src/core/codec.ts";
import { Rng } from "../src/core/rng.ts";
import { emAssignShapes, type EmDims } from "../src/core/shapes.ts";
import { elements } from "../src/gpu/tensor.ts";
import { EmAssign } from "../src/kernels/em_assign.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench();
const pair: Stage = { kind: "pair", tied: true };
/** A head of an 8B layer at a million tokens, all heads of a fable-28m layer, and sub-vector stages. */
const cases: readonly EmDims[] = [
  { headDim: 128, heads: 1, tokens: 2 ** 20, stage: pair },
  { headDim: 64, heads: 4, tokens: 2 ** 17, stage: pair },
  { headDim: 64, heads: 4, tokens: 2 ** 17, stage: { kind: "sub", pairs: 8 } },
];
for (const full of cases) {
  const dims = software ? { ...full, heads: 1, tokens: 4096 } : full, shapes = emAssignShapes(dims), rng = new Rng(1);
  const words = Uint32Array.from({ length: elements(shapes.table) }, () => rng.u32() & 0x83ff83ff | 0x24002400);
  using residual = gpu.alloc("residual", "f32", shapes.residual),
    table = gpu.upload("table", "u32", shapes.table, words);
  using gram = gpu.alloc("gram", "f32", shapes.gram), codes = gpu.alloc("codes", "u32", shapes.codes);
  using distances = gpu.alloc("distances", "f32", shapes.distances);
  const io = { residual, table, gram, codes, distances }, { headDim, heads, tokens, stage } = dims;
  const op = await EmAssign.create(gpu, headDim, stage), rows = heads * tokens;
  const flops = rows * (stage.kind === "pair" ? 2 * 128 * headDim + 2 * 4096 : 2 * 256 * headDim);
  const name = `em_assign ${stage.kind} ${heads}x${tokens}x${headDim}`;
  const { medianUs } = await time(name, traffic(io), (commands) => op.encode(commands, io, dims), {
    flops,
    repetitions: software ? 3 : 20,
  });
  console.log(`  ${(rows / medianUs).toFixed(1)} million vectors/s`);
}
