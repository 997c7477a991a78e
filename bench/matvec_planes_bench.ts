/** The products of models' layers and heads in integers, each after the same one by the kernel for any weight type. */
import { Matvec } from "../src/kernels/matvec.ts";
import type { MatvecForm } from "../src/kernels/matvec_form.ts";
import { chooseMatvecPlanes, MatvecPlanes } from "../src/kernels/matvec_planes.ts";
import { bench, ROTATE_BYTES, time } from "./_harness.ts";
import { randomMatrix } from "./_weights.ts";

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
  using out = gpu.alloc("out", "f32", [rows]);
  for (const type of ["Q8_0", "Q4_0"] as const) {
    const planes = chooseMatvecPlanes({ type, rows, cols }, gpu);
    if (!planes) continue;
    using stack = new DisposableStack();
    const first = stack.use(randomMatrix(gpu, { type, rows, cols })), matrices = [first], { bytes } = first;
    while (!software && matrices.length * bytes < ROTATE_BYTES) {
      matrices.push(stack.use(randomMatrix(gpu, { type, rows, cols })));
    }
    const ops = {
      matvec: await Matvec.create(gpu, first, form),
      matvec_planes: await MatvecPlanes.create(gpu, type, form, planes),
    };
    const about = `${type} ${rows}x${cols} ${Object.keys(form).join(" ")}`.trim(), count = matrices.length;
    for (const [name, op] of Object.entries(ops)) {
      await time(`${name} ${about}, ${count} in a row`, bytes * count, (commands) => {
        for (const matrix of matrices) op.encode(commands, matrix, { x, gain, out }, { eps: 1e-5 });
      }, { repetitions: 20 });
    }
  }
}
