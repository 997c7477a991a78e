import { adamwShapes } from "../src/core/shapes.ts";
import { AdamW } from "../src/kernels/adamw.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench();
const count = software ? 2 ** 18 : 12 * 2 ** 20;
for (const slabs of [1, 8]) {
  const shapes = adamwShapes(count, slabs);
  using parameters = gpu.alloc("parameters", "f32", shapes.parameters);
  using gradients = gpu.alloc("gradients", "f32", shapes.gradients);
  using mean = gpu.alloc("mean", "f32", shapes.mean), square = gpu.alloc("square", "f32", shapes.square);
  const op = await AdamW.create(gpu), io = { parameters, gradients, mean, square };
  const settings = { step: 1, rate: 1e-3, decay: 0.1, beta1: 0.9, beta2: 0.95 };
  await time(`adamw count=${count} slabs=${slabs}`, traffic(io) + 12 * count, (commands) => {
    op.encode(commands, io, settings);
  });
}
