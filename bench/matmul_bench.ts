import { Matmul } from "../src/kernels/matmul.ts";
import { bench, time } from "./_harness.ts";
import { randomMatrix } from "./_weights.ts";

const { gpu, software } = await bench();
const [rows, cols] = software ? [1408, 512] : [4096, 4096];
for (const type of ["Q8_0", "F16", "F32", "Q4_0", "Q4_K", "Q6_K"] as const) {
  using weights = randomMatrix(gpu, { type, rows, cols });
  for (const tokens of software ? [16, 64] : [4, 16, 64, 512, 4096]) {
    using x = gpu.upload("x", "f32", [tokens, cols], Float32Array.from({ length: tokens * cols }, Math.random));
    using out = gpu.alloc("out", "f32", [tokens, rows]);
    const op = await Matmul.create(gpu, type), bytes = weights.bytes + x.byteLength + out.byteLength;
    const name = `matmul ${type} ${tokens}x${cols} by ${rows}`, flops = 2 * tokens * rows * cols;
    await time(name, bytes, (commands) => op.encode(commands, weights, { x, out }), { flops });
  }
}
