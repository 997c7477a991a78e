import { klRowsShapes } from "../src/core/shapes.ts";
import { KlRows } from "../src/kernels/kl_rows.ts";
import { bench, ROTATE_BYTES, time } from "./_harness.ts";

const { gpu, software } = await bench();
const rotate = software ? 2 ** 25 : Math.min(ROTATE_BYTES, gpu.maxBytes);
for (const [vocab, most] of [[32000, 1024], [128256, 512]] as const) {
  const tokens = Math.min(most, Math.floor(rotate / 8 / vocab / 4)), shapes = klRowsShapes({ tokens, vocab });
  using out = gpu.alloc("out", "f32", shapes.out);
  using stack = new DisposableStack();
  const data = new Float32Array(tokens * vocab).map((_, i) => Math.sin(i) * 5);
  const rows = Array.from(
    { length: 6 },
    (_, i) => stack.use(gpu.upload("logits", "f32", shapes.p, data.map((x) => x + 0.01 * i * Math.cos(x)))),
  );
  for (const lanes of [256, 1024]) {
    const op = await KlRows.create(gpu, vocab, { lanes });
    await time(
      `kl_rows ${tokens}x${vocab} lanes=${lanes}`,
      2 * data.byteLength,
      (commands, i) => op.encode(commands, { p: rows[2 * i % 6]!, q: rows[(2 * i + 1) % 6]!, out }),
    );
  }
}
