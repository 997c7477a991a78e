/**
 * The products of models' layers and heads in integers, each after the same one by the kernel for any weight type, and
 * in F16 by that.
 */
import { Matvec } from "../src/kernels/matvec.ts";
import type { MatvecForm } from "../src/kernels/matvec_form.ts";
import { chooseMatvecPlanes, MatvecPlanes } from "../src/kernels/matvec_planes.ts";
import { bench } from "./_harness.ts";
import { randomMatrices, timeProducts } from "./_weights.ts";

const { gpu, software } = await bench();
const QKV = { norm: true }, RESIDUAL = { residual: true }, GATED = { norm: true, gated: true };
const cases: [rows: number, cols: number, form: MatvecForm][] = software ? [[2048, 2048, QKV]] : [
  [14336, 4096, {}],
  [14336, 4096, QKV],
  [4096, 14336, RESIDUAL],
  [28672, 4096, GATED],
  [6144, 4096, QKV],
  [4096, 4096, RESIDUAL],
  [128256, 4096, QKV],
  [2048, 2048, RESIDUAL],
  [3072, 2048, QKV],
  [16384, 2048, GATED],
  [2048, 8192, RESIDUAL],
];
for (const [rows, cols, form] of cases) {
  using x = gpu.upload("x", "f32", [cols], new Float32Array(cols).fill(0.1));
  using gain = gpu.upload("gain", "f32", [cols], new Float32Array(cols).fill(1));
  for (const type of ["F16", "Q8_0", "Q4_0"] as const) {
    const planes = chooseMatvecPlanes({ type, rows, cols }, gpu);
    if (!planes && type !== "F16") continue;
    using stack = new DisposableStack();
    const matrices = await randomMatrices(stack, { type, rows, cols });
    const ops = {
      matvec: await Matvec.create(gpu, matrices[0]!, form),
      ...planes && { matvec_planes: await MatvecPlanes.create(gpu, type, form, planes) },
    };
    const about = `${type} ${rows}x${cols} ${Object.keys(form).join(" ")}`.trim();
    for (const [name, op] of Object.entries(ops)) {
      await timeProducts(`${name} ${about}`, matrices, rows, (commands, matrix, out) => {
        op.encode(commands, matrix, { x, gain, out }, { eps: 1e-5 });
      });
    }
  }
}
