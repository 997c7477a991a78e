/** One training step of fable-28m's value encoders, all layers at once, and what 3,000 of them take. */
import { ValueEncoder } from "../src/codebook/value_encoder.ts";
import { ValueTrainer } from "../src/codebook/value_encoder_train.ts";
import { Rng } from "../src/core/rng.ts";
import { bench, time } from "./_harness.ts";

const { gpu, software } = await bench();
const layers = software ? 1 : 8, batch = software ? 128 : 4096, rows = software ? 512 : 16384, features = 256;
const rng = new Rng(1), sample = Float32Array.from({ length: rows * features }, () => rng.normal());
const values = Array.from({ length: layers }, (_, i) => gpu.upload(`values ${i}`, "f32", [rows, features], sample));

for (const bits of [1, 2] as const) {
  using trainer = await ValueTrainer.create(gpu, values, { features, bits }, batch, 1);
  const { flops } = trainer, label = `${layers} layers, ${bits} bit, ${batch} tokens`;
  const encode = (commands: Parameters<ValueTrainer["encode"]>[0], step: number) =>
    trainer.encode(commands, step, 1e-3);
  const repetitions = software ? 3 : 30;
  await time(`value training step, ${label}`, 0, encode, { flops, repetitions });

  const steps = software ? 3 : 300; // as training submits them: one a step, a look at the loss every 50
  await trainer.losses();
  const start = performance.now();
  for (let step = 0; step < steps; step++) {
    const commands = gpu.commands();
    encode(commands, step);
    commands.submit();
    if (step % 50 === 49) await trainer.losses();
  }
  const losses = await trainer.losses(), each = (performance.now() - start) / steps;
  console.log(
    `  by the clock ${each.toFixed(3)} ms a step, ${(flops / each / 1e9).toFixed(2)} TFLOP/s: ` +
      `3,000 steps in ${(3 * each).toFixed(1)} s (loss ${losses[0]!.toFixed(3)})`,
  );

  using encoder = await ValueEncoder.fromArrays(gpu, await trainer.arrays(), { chunk: software ? 128 : 4096 });
  const tokens = encoder.chunk,
    { words, scales } = encoder.allocCode(tokens),
    part = values[0]!.view(0, [tokens, features]);
  const row = await time(`value encoding, ${bits} bit, ${tokens} tokens of a layer`, 0, (commands) => {
    encoder.encode(commands, 0, part, { words, scales });
  }, { repetitions });
  console.log(`  ${(tokens / row.medianUs).toFixed(3)} million tokens/s`);
}
