import { layerNormFoldShapes, valueWidths } from "../src/core/shapes.ts";
import { LayerNormFold } from "../src/kernels/layer_norm_fold.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu } = await bench(), features = 256, layers = 8, widths = valueWidths({ features, bits: 2 });
const slabs = { count: 8, apart: layers * widths.linear1 };
for (const backward of [false, true]) {
  const shapes = layerNormFoldShapes(layers, widths, backward ? slabs : undefined);
  const op = await LayerNormFold.create(gpu, features, widths, backward);
  using linear = gpu.alloc("linear", "f32", shapes.linear), folded = gpu.alloc("folded", "f32", shapes.folded);
  const io = { linear, folded }, bytes = traffic(io) + (backward ? folded.byteLength : 0);
  await time(`layer_norm_fold layers=${layers} backward=${backward}`, bytes, (commands) => {
    op.encode(commands, io, layers, backward ? slabs : undefined);
  });
}
