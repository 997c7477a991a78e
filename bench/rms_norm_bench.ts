import { rmsNormShapes } from "../src/core/shapes.ts";
import { RmsNorm } from "../src/kernels/rms_norm.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench();
const sizes = [[1, 4096], [1024, 512], [1024, 4096], [8192, 4096]] as const;
for (const [tokens, hidden] of software ? sizes.slice(0, 2) : sizes) {
  const shapes = rmsNormShapes({ tokens, hidden });
  using stack = new DisposableStack();
  const data = new Float32Array(tokens * hidden).map((_, i) => Math.sin(i));
  const alloc = () => stack.use(gpu.upload("x", "f32", shapes.x, data));
  const gain = stack.use(gpu.upload("gain", "f32", shapes.gain, data.subarray(0, hidden)));
  const all = Array.from({ length: tokens * hidden > 2 ** 24 ? 4 : 8 }, alloc), half = all.length / 2;
  for (const lanes of [64, 128, 256]) {
    const op = await RmsNorm.create(gpu, hidden, { lanes });
    await time(
      `rms_norm ${tokens}x${hidden} lanes=${lanes}`,
      traffic({ x: all[0]!, out: all[1]!, gain }),
      (commands, i) => op.encode(commands, { x: all[i % half]!, gain, out: all[half + i % half]! }, 1e-5),
    );
  }
}
