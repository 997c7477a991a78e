import { unitNormShapes } from "../src/core/shapes.ts";
import { UnitNorm } from "../src/kernels/unit_norm.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench();
const batch = { layers: software ? 1 : 8, tokens: 4096 },
  features = 256,
  shapes = unitNormShapes({ ...batch, features });
using normed = gpu.alloc("normed", "f32", shapes.normed), stats = gpu.alloc("stats", "f32", shapes.stats);
using scale = gpu.alloc("scale", "f32", shapes.scale), v = gpu.alloc("v", "f32", shapes.v);
using scales = gpu.alloc("scales", "f16", shapes.scales), errors = gpu.alloc("errors", "f32", shapes.errors);
for (const backward of [false, true]) {
  for (const lanes of [32, 64, 128]) {
    const op = await UnitNorm.create(gpu, features, backward, lanes), io = { normed, stats, scale, v, scales, errors };
    const bytes = traffic(io) + (backward ? v.byteLength : 0);
    await time(`unit_norm layers=${batch.layers} backward=${backward} lanes=${lanes}`, bytes, (commands) => {
      op.encode(commands, io, batch);
    });
  }
}
