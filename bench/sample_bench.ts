import { Rng } from "../src/core/rng.ts";
import { sampleShapes } from "../src/core/shapes.ts";
import { Sample } from "../src/kernels/sample.ts";
import { bench, time } from "./_harness.ts";

const { gpu } = await bench();
const none = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 };
for (const vocab of [32000, 128256]) {
  const op = await Sample.create(gpu), shapes = sampleShapes(vocab), rng = new Rng(1);
  using logits = gpu.upload(
    "logits",
    "f32",
    shapes.logits,
    Float32Array.from({ length: vocab }, () => 3 * rng.normal()),
  );
  using seen = gpu.alloc("seen", "u32", shapes.seen);
  using partials = gpu.alloc("partials", "f32", shapes.partials);
  using sums = gpu.alloc("sums", "f32", shapes.sums);
  using state = gpu.alloc("state", "u32", shapes.state);
  using record = gpu.alloc("record", "u32", shapes.record);
  using tokens = gpu.alloc("tokens", "u32", [1]);
  const io = { logits, seen, partials, sums, state, record, tokens };
  for (
    const [name, rule] of [
      ["greedy", none],
      ["temperature", { ...none, temperature: 0.7 }],
      ["penalty", { ...none, temperature: 0.7, repetitionPenalty: 1.1 }],
      ["minP", { ...none, temperature: 0.7, minP: 0.05 }],
      ["topK", { ...none, temperature: 0.7, topK: 40 }],
      ["topP", { ...none, temperature: 0.7, topP: 0.95 }],
      ["topK topP minP", { ...none, temperature: 0.7, topK: 40, topP: 0.95, minP: 0.05 }],
    ] as const
  ) {
    await time(
      `sample ${name} vocab=${vocab}`,
      logits.byteLength,
      (commands, step) => op.encode(commands, io, rule, { seed: 1, step }),
    );
  }
}
