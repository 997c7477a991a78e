/** Tokens a second of whole models, one after the other, as `generate` makes them; bytes are matrices and cache. */
import { bench } from "./_harness.ts";
import { type BenchModel, bundled, generateAt, matrixTraffic, medianRate, printRate, shaped8B } from "./_model.ts";

const { gpu, software } = await bench();

async function decode(model: BenchModel, depths: number[], tokens: number): Promise<void> {
  const { layers, qHeads, kvHeads, headDim } = model.engine.config, { bytes, numbers } = matrixTraffic(model);
  for (const depth of depths) {
    const rate = await medianRate(3, async () => (await generateAt(model, depth, 1, tokens)).decodeTokensPerSecond);
    const seen = depth + tokens / 2;
    await printRate(`decode ${model.name} at ${depth}`, rate, {
      step: 1,
      bytes: bytes + 4 * layers * kvHeads * headDim * seen,
      flops: 2 * numbers + 4 * layers * qHeads * headDim * seen,
    });
  }
}

{
  using model = await bundled(gpu, software ? 1024 : 16_384);
  await decode(model, software ? [0, 512] : [0, 8192, 15_872], software ? 16 : 256);
}
if (!software) {
  using model = await shaped8B(gpu, 32_768 + 256);
  await decode(model, [0, 8192, 32_768], 64);
}
