import { scoreRowsShapes } from "../src/core/shapes.ts";
import { ScoreRows } from "../src/kernels/score_rows.ts";
import { bench, ROTATE_BYTES, time } from "./_harness.ts";

const { gpu } = await bench();
const rotate = Math.min(ROTATE_BYTES, gpu.maxBytes);
for (const [vocab, most] of [[32000, 1024], [128256, 512]] as const) {
  const tokens = Math.min(most, Math.floor(rotate / 8 / vocab / 4)), copies = Math.floor(rotate / tokens / vocab / 4);
  const shapes = scoreRowsShapes({ tokens, vocab });
  using targets = gpu.alloc("targets", "u32", shapes.targets);
  using scores = gpu.alloc("scores", "u32", shapes.scores);
  using stack = new DisposableStack();
  const data = new Float32Array(tokens * vocab).map((_, i) => Math.sin(i) * 5);
  const logits = Array.from(
    { length: Math.min(copies, 8) },
    () => stack.use(gpu.upload("logits", "f32", shapes.logits, data)),
  );
  for (const lanes of [256, 1024]) {
    const op = await ScoreRows.create(gpu, vocab, { lanes });
    await time(
      `score_rows ${tokens}x${vocab} lanes=${lanes}`,
      data.byteLength,
      (commands, i) => op.encode(commands, { logits: logits[i % logits.length]!, targets, scores }),
    );
  }
}
