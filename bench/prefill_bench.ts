/** Tokens a second that whole models read, as `generate` reads a prompt; bytes are the matrices', once a chunk. */
import { bench } from "./_harness.ts";
import { type BenchModel, bundled, generateAt, matrixTraffic, medianRate, printRate, shaped8B } from "./_model.ts";

const { gpu, software } = await bench();

async function prefill(model: BenchModel, prompt: number, depths: number[], runs: number): Promise<void> {
  const { decoder, config: { layers, qHeads, headDim, hidden, vocab } } = model.engine;
  const { bytes, numbers } = matrixTraffic(model), inLayers = numbers - hidden * vocab; // one row of logits is made
  for (const depth of depths) {
    const rate = await medianRate(runs, async () => (await generateAt(model, depth, prompt, 1)).prefillTokensPerSecond);
    await printRate(`prefill ${model.name}, ${prompt} tokens at ${depth}`, rate, {
      step: prompt,
      bytes: bytes * Math.ceil(prompt / decoder.chunk),
      flops: prompt * (2 * inLayers + 4 * layers * qHeads * headDim * (depth + prompt / 2)),
    });
  }
}

{
  using model = await bundled(gpu, software ? 1024 : 16_384);
  await prefill(model, software ? 128 : 2048, software ? [0] : [0, 8192, 14_000], software ? 1 : 3);
}
if (!software) {
  using model = await shaped8B(gpu, 32_768 + 2048);
  await prefill(model, 2048, [0, 8192, 32_768 - 1], 1);
}
