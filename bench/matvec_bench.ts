import { Matvec } from "../src/kernels/matvec.ts";
import { bench, ROTATE_BYTES, time } from "./_harness.ts";
import { randomMatrix } from "./_weights.ts";

const { gpu, software } = await bench();
const shapes = software
  ? [[8192, 512]]
  : [[512, 512], [4096, 4096], [6144, 4096], [14336, 4096], [4096, 14336], [28672, 4096]];
for (const [rows, cols] of shapes as [number, number][]) {
  using x = gpu.upload("x", "f32", [cols], new Float32Array(cols).fill(0.1));
  using gain = gpu.upload("gain", "f32", [cols], new Float32Array(cols).fill(1));
  using out = gpu.alloc("out", "f32", [rows]);
  for (const type of ["Q8_0", "F16", "BF16", "Q4_0", "Q4_K", "Q6_K"] as const) {
    using stack = new DisposableStack();
    const first = stack.use(randomMatrix(gpu, { type, rows, cols })), matrices = [first], { bytes } = first;
    while (!software && rows > 512 && matrices.length * bytes < ROTATE_BYTES) {
      matrices.push(stack.use(randomMatrix(gpu, { type, rows, cols })));
    }
    for (const norm of [false, true]) {
      const op = await Matvec.create(gpu, first, { norm }), io = { x, gain, out }, count = matrices.length;
      const name = `matvec ${type} ${rows}x${cols}${norm ? " norm" : ""}, ${count} in a row`;
      await time(name, bytes * count, (commands) => {
        for (const matrix of matrices) op.encode(commands, matrix, io, { eps: 1e-5 });
      }, { repetitions: 20 });
    }
  }
}
