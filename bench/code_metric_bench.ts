import { codeMetricShapes } from "../src/core/shapes.ts";
import { CodeMetric } from "../src/kernels/code_metric.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench();
for (const [heads, headDim] of [[4, 64], [8, 128]] as const) {
  const tokens = software ? 256 : 65_536, shapes = codeMetricShapes({ heads, headDim, tokens });
  using residual = gpu.alloc("residual", "f32", shapes.residual), metric = gpu.alloc("metric", "u32", shapes.metric);
  const op = await CodeMetric.create(gpu, headDim), io = { residual, metric };
  await time(
    `code_metric ${heads} heads of ${headDim}, ${tokens} tokens`,
    traffic(io),
    (c) => op.encode(c, io, tokens / 32),
  );
}
