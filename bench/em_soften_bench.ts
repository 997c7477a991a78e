import { Rng } from "../src/core/rng.ts";
import { type EmDims, emSoftenShapes } from "../src/core/shapes.ts";
import { elements } from "../src/gpu/tensor.ts";
import { CodeGram } from "../src/kernels/code_gram.ts";
import { EmSoften } from "../src/kernels/em_soften.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench();
const stage = { kind: "pair", tied: true } as const;
for (const headDim of [64, 128]) {
  const dims: EmDims = { headDim, heads: software ? 1 : 4, tokens: software ? 256 : 2 ** 17, stage };
  const shapes = emSoftenShapes(dims), rng = new Rng(1), { heads, tokens } = dims;
  const numbers = Float32Array.from({ length: 2 ** 20 }, () => 0.1 * rng.normal());
  const words = Uint32Array.from({ length: elements(shapes.table) }, () => rng.u32() & 0x83ff83ff | 0x24002400);
  using residual = gpu.alloc("residual", "f32", shapes.residual),
    table = gpu.upload("table", "u32", shapes.table, words);
  for (let at = 0; at < residual.byteLength; at += numbers.byteLength) {
    gpu.write(residual, numbers.subarray(0, Math.min(numbers.length, (residual.byteLength - at) / 4)), at);
  }
  using gram = gpu.alloc("gram", "f32", shapes.gram), weights = gpu.alloc("weights", "f32", shapes.weights);
  using counts = gpu.alloc("counts", "f32", shapes.counts);
  const io = { residual, table, gram, weights, counts }, op = await EmSoften.create(gpu, headDim);
  const commands = gpu.commands(), gramOf = await CodeGram.create(gpu, { headDim, stages: [stage] });
  gramOf.encode(commands, { table, gram }, heads);
  commands.submit();
  for (const temperature of [1, 1e-5]) { // all words weigh, or the nearest few
    const name = `em_soften ${heads}x${tokens}x${headDim} T=${temperature}`;
    const { medianUs } = await time(name, traffic(io), (commands) => op.encode(commands, io, dims, temperature), {
      repetitions: software ? 2 : 10,
    });
    console.log(`  ${(heads * tokens / medianUs).toFixed(1)} million vectors/s`);
  }
}
