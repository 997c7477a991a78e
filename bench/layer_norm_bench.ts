import { layerNormShapes } from "../src/core/shapes.ts";
import { LayerNorm } from "../src/kernels/layer_norm.ts";
import { bench, time } from "./_harness.ts";

const { gpu } = await bench(), features = 256, tokens = 4096, rows = 65536;
const shapes = layerNormShapes({ layers: 1, tokens, rows, features });
using values = gpu.alloc("values", "f32", shapes.values), scale = gpu.alloc("scale", "f32", shapes.scale);
using normed = gpu.alloc("normed", "f32", shapes.normed), stats = gpu.alloc("stats", "f32", shapes.stats);
for (const lanes of [32, 64, 128]) {
  const op = await LayerNorm.create(gpu, features, { draw: true, lanes }), io = { values, scale, normed, stats };
  const bytes = 2 * normed.byteLength + stats.byteLength;
  await time(`layer_norm tokens=${tokens} features=${features} lanes=${lanes}`, bytes, (commands, step) => {
    op.encode(commands, io, { layers: 1, tokens }, { layer: 0, seed: 1, step });
  });
}
