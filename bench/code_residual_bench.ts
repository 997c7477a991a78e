import { ropeTableRows } from "../src/core/rope_table.ts";
import { residualShape } from "../src/core/shapes.ts";
import { CodeResidual } from "../src/kernels/code_residual.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench();
const tokens = software ? 512 : 2 ** 15, dims = { kvHeads: 8, headDim: 128 };
for (const form of ["rows", "cache", "rotated cache"] as const) {
  using source = form === "rows"
    ? gpu.alloc("source", "f32", [tokens, 1024])
    : gpu.alloc("source", "u32", [8, tokens, 64]);
  using residual = gpu.alloc("residual", "f32", residualShape({ headDim: 128, heads: 8, tokens }));
  using scales = gpu.alloc("scales", "f16", [tokens]);
  using ropeTable = gpu.alloc("rope", "f32", [ropeTableRows(tokens), 64, 2]);
  const op = await CodeResidual.create(gpu, dims, form), io = { source, ropeTable, scales, residual };
  const bytes = traffic({ source, scales, residual });
  await time(`code_residual ${form} ${tokens}x8x128`, bytes, (commands) => op.encode(commands, io, { tokens }));
}
