import { type GemmDims, type GemmForm, gemmShapes } from "../core/shapes.ts";
import { exact, type Round } from "./round.ts";

type Numbers = Float32Array | Float64Array;

/** Twin of `wgsl/gemm.wgsl` in f64; `round = Math.fround` gives the naive f32 version. Gaps between parts stay 0. */
export function gemmRef(a: Numbers, b: Numbers, form: GemmForm, dims: GemmDims, round: Round = exact): Float64Array {
  const { batch, m, n, k, bStride, splits = { count: 1, apart: 0, stride: m * n } } = dims, { aT, bT, bias } = form;
  const c = new Float64Array(gemmShapes(form, dims).c.reduce((x, y) => x * y));
  const depth = Math.ceil(k / splits.count / 16) * 16;
  for (let i = 0; i < splits.count; i++) {
    for (let z = 0; z < batch; z++) {
      const at = i * splits.apart + z * splits.stride,
        aAt = z * m * k,
        bAt = z * (bStride ?? n * k + (bias && bT ? n : 0));
      for (let row = 0; row < m; row++) {
        let sumA = 0;
        for (let col = 0; col < n; col++) {
          let sum = 0;
          for (let j = i * depth; j < Math.min(k, (i + 1) * depth); j++) {
            const x = a[aAt + (aT ? j * m + row : row * k + j)]!, y = b[bAt + (bT ? col * k + j : j * n + col)]!;
            sum = round(sum + round(x * y));
            if (col === 0) sumA = round(sumA + x);
          }
          c[at + row * n + col] = bias && bT ? round(sum + b[bAt + n * k + col]!) : sum;
        }
        if (bias && aT) c[at + m * n + row] = sumA;
      }
    }
  }
  return c;
}
