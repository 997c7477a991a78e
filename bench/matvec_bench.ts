import { Matvec } from "../src/kernels/matvec.ts";
import { bench } from "./_harness.ts";
import { randomMatrices, timeProducts } from "./_weights.ts";

const { gpu, software } = await bench();
const shapes = software
  ? [[8192, 512]]
  : [[512, 512], [4096, 4096], [6144, 4096], [14336, 4096], [4096, 14336], [28672, 4096]];
for (const [rows, cols] of shapes as [number, number][]) {
  using x = gpu.upload("x", "f32", [cols], new Float32Array(cols).fill(0.1));
  using gain = gpu.upload("gain", "f32", [cols], new Float32Array(cols).fill(1));
  for (const type of ["Q8_0", "F16", "BF16", "Q4_0", "Q4_K", "Q6_K"] as const) {
    using stack = new DisposableStack();
    const matrices = await randomMatrices(stack, { type, rows, cols });
    for (const norm of [false, true]) {
      const op = await Matvec.create(gpu, matrices[0]!, { norm });
      await timeProducts(
        `matvec ${type} ${rows}x${cols}${norm ? " norm" : ""}`,
        matrices,
        rows,
        (commands, matrix, out) => {
          op.encode(commands, matrix, { x, gain, out }, { eps: 1e-5 });
        },
      );
    }
  }
}
