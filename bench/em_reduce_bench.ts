import { emReduceShapes } from "../src/core/shapes.ts";
import { EmReduce } from "../src/kernels/em_reduce.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench();
for (
  const [heads, parts, width] of [[1, 1024, 128 * 128 + 4100], [4, 128, 128 * 64 + 4100], [4, 2048, 4096]] as const
) {
  const shapes = emReduceShapes({ heads, parts: software ? 16 : parts, width });
  using input = gpu.alloc("parts", "f32", shapes.parts), out = gpu.alloc("out", "f32", shapes.out);
  const op = await EmReduce.create(gpu), io = { parts: input, out };
  await time(`em_reduce ${shapes.parts.join("x")}`, traffic(io), (commands) => op.encode(commands, io));
}
