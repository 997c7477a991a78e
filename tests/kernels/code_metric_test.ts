import { assertThrows } from "@std/assert";
import { codeMetricShapes } from "../../src/core/shapes.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { CodeMetric } from "../../src/kernels/code_metric.ts";
import { codeMetricRef } from "../../src/ref/code_metric.ts";
import { assertAsAccurateAs } from "../_assert.ts";
import { asWords, halves, KINDS, residuals } from "./_codec.ts";

Deno.test("code_metric", async (t) => {
  using gpu = await Gpu.create();
  for (const [heads, headDim, tokens] of [[1, 8, 1], [2, 64, 70], [3, 80, 33], [1, 128, 64], [1, 256, 5]] as const) {
    for (const kind of headDim === 64 ? KINDS : ["normal"] as const) {
      await t.step(
        `multiplies by each head's matrix: ${kind}, ${heads} heads of ${headDim}, ${tokens} tokens`,
        async () => {
          const dims = { heads, headDim, tokens }, shapes = codeMetricShapes(dims);
          const data = residuals(dims, kind, 51).map((x) => Number.isNaN(x) ? 0 : x);
          const { bits, values: matrix } = halves(heads * headDim * headDim, 1, 52);
          using residual = gpu.upload("residual", "f32", shapes.residual, data);
          using metric = gpu.upload("metric", "u32", shapes.metric, asWords(bits));
          const op = await CodeMetric.create(gpu, headDim), commands = gpu.commands();
          op.encode(commands, { residual, metric }, shapes.residual[1]!);
          commands.submit();
          assertAsAccurateAs(
            await gpu.readF32(residual),
            codeMetricRef(data, matrix, dims, Math.fround),
            codeMetricRef(data, matrix, dims),
          );
        },
      );
    }
  }
  await t.step("refuses more blocks than there are, and another head's size", async () => {
    const op = await CodeMetric.create(gpu, 8), shapes = codeMetricShapes({ heads: 1, headDim: 8, tokens: 32 });
    const residual = gpu.alloc("r", "f32", shapes.residual), metric = gpu.alloc("m", "u32", shapes.metric);
    assertThrows(() => op.encode(gpu.commands(), { residual, metric }, 2), RangeError, "2 blocks as there are 1");
    assertThrows(() => op.encode(gpu.commands(), { residual, metric: residual }, 1), TypeError, "'metric'");
  });
});
