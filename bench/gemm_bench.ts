import { type GemmDims, type GemmForm, gemmShapes } from "../src/core/shapes.ts";
import { Gemm } from "../src/kernels/gemm.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench();
const batch = software ? 1 : 8, tokens = software ? 64 : 4096;
/** A linear layer of the value encoder of fable-28m at 2 bits: forward, gradient of its input, of its weight. */
const cases: readonly (readonly [string, GemmForm, GemmDims])[] = [
  ["forward", { bT: true, bias: true }, { batch, m: tokens, n: 1024, k: 1024 }],
  ["input gradient", {}, { batch, m: tokens, n: 1024, k: 1024 }],
  ["weight gradient", { aT: true, bias: true }, {
    ...{ batch, m: 1024, n: 1024, k: tokens },
    splits: { count: 8, apart: batch * 1024 * 1028, stride: 1024 * 1028 },
  }],
  ["codewords", {}, { batch, m: tokens, n: 256, k: 512 }],
];
for (const [name, form, dims] of cases) {
  const shapes = gemmShapes(form, dims), flops = 2 * dims.batch * dims.m * dims.n * dims.k;
  using a = gpu.alloc("a", "f32", shapes.a), b = gpu.alloc("b", "f32", shapes.b), c = gpu.alloc("c", "f32", shapes.c);
  for (const tile of [64, 128] as const) {
    const op = await Gemm.create(gpu, form, dims.n, { tile }), io = { a, b, c };
    const label = `gemm ${name} ${dims.batch}x${dims.m}x${dims.n}x${dims.k} tile=${tile}`;
    await time(label, traffic(io), (commands) => op.encode(commands, io, dims), { flops });
  }
}
