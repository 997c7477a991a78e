import { toF16Array } from "../src/core/f16.ts";
import { codeMissedShapes } from "../src/core/shapes.ts";
import { CodeMissed } from "../src/kernels/code_missed.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench();
for (const [heads, headDim] of [[4, 64], [8, 128]] as const) {
  const tokens = software ? 256 : 65_536, shapes = codeMissedShapes({ heads, headDim, tokens, scales: tokens });
  using residual = gpu.alloc("residual", "f32", shapes.residual), missed = gpu.alloc("missed", "u32", shapes.missed);
  using scales = gpu.upload("scales", "f16", shapes.scales, toF16Array(new Float32Array(tokens).fill(1)));
  using thresholds = gpu.upload("thresholds", "f32", shapes.thresholds, new Float32Array(heads).fill(1));
  const op = await CodeMissed.create(gpu, headDim), io = { residual, scales, thresholds, missed };
  const label = `code_missed ${heads} heads of ${headDim}, ${tokens} tokens`;
  await time(label, traffic(io), (c) => op.encode(c, io, { tokens, scale: 0 }));
}
