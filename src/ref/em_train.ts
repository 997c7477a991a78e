import type { PairStage } from "../core/codec.ts";
import type { EmDims } from "../core/shapes.ts";
import { emAssignRef } from "./em_assign.ts";

/** Solves `A x = b` for `b [n][width]` by elimination with pivots: slow, and good for any matrix that can be solved. */
export function eliminate(a: Float64Array, b: Float64Array): Float64Array {
  const n = Math.sqrt(a.length), width = b.length / n, m = a.slice(), x = b.slice();
  for (let k = 0; k < n; k++) {
    let pivot = k;
    for (let i = k; i < n; i++) if (Math.abs(m[i * n + k]!) > Math.abs(m[pivot * n + k]!)) pivot = i;
    for (let c = 0; c < n; c++) [m[k * n + c], m[pivot * n + c]] = [m[pivot * n + c]!, m[k * n + c]!];
    for (let c = 0; c < width; c++) {
      [x[k * width + c], x[pivot * width + c]] = [x[pivot * width + c]!, x[k * width + c]!];
    }
    for (let i = 0; i < n; i++) {
      if (i === k) continue;
      const factor = m[i * n + k]! / m[k * n + k]!;
      if (factor === 0) continue;
      for (let c = k; c < n; c++) m[i * n + c]! -= factor * m[k * n + c]!;
      for (let c = 0; c < width; c++) x[i * width + c]! -= factor * x[k * width + c]!;
    }
  }
  return x.map((value, i) => value / m[Math.floor(i / width) * (n + 1)]!);
}

/**
 * One M step of a pair stage the slow way: for each pair of components, the normal equations of its real unknowns, built
 * token by token from the codes, and eliminated. Words `[128][D]`.
 */
export function mStepRef(
  residuals: readonly Float64Array[],
  codes: ArrayLike<number>,
  stage: PairStage,
  ridge: number,
): Float64Array {
  const headDim = residuals[0]!.length, words = new Float64Array(128 * headDim);
  for (let d = 0; d < headDim; d += 2) {
    // unknowns: real parts of 64 (tied) or 128 rows, then their imaginary parts
    const count = stage.tied ? 64 : 128, n = 2 * count, a = new Float64Array(n * n), b = new Float64Array(n);
    for (let i = 0; i < n; i++) a[i * n + i] = ridge;
    residuals.forEach((x, t) => {
      const u = codes[t]! >> 6, v = codes[t]! & 63;
      const equations: [number, number][][] = stage.tied
        ? [[[u, 1], [count + v, -1]], [[count + u, 1], [v, 1]]] // z_a + i z_b
        : [[[u, 1], [64 + v, 1]], [[count + u, 1], [count + 64 + v, 1]]];
      equations.forEach((terms, part) => {
        for (const [i, p] of terms) {
          b[i]! += p * x[d + part]!;
          for (const [j, q] of terms) a[i * n + j]! += p * q;
        }
      });
    });
    const solved = eliminate(a, b);
    for (let row = 0; row < count; row++) {
      const re = solved[row]!, im = solved[count + row]!;
      words.set([re, im], row * headDim + d);
      if (stage.tied) words.set([-im, re], (64 + row) * headDim + d);
    }
  }
  return words;
}

/** Plain hard EM of one pair stage in f64: nearest words by looking at all, M steps by elimination. */
export function emTrainRef(
  residual: Float64Array,
  first: Float64Array,
  dims: EmDims & { readonly stage: PairStage },
  iterations: number,
  ridge: number,
): { words: Float64Array; losses: number[] } {
  const { tokens, headDim } = dims, losses: number[] = [];
  const vectors = Array.from(
    { length: tokens },
    (_, t) => Float64Array.from({ length: headDim }, (_, c) => residual[((t >> 5) * headDim + c) * 32 + (t & 31)]!),
  );
  let words = first;
  for (let i = 0; i <= iterations; i++) {
    const { codes, distances } = emAssignRef(residual, words, dims);
    losses.push(distances.reduce((a, b) => a + b));
    if (i < iterations) words = mStepRef(vectors, codes, dims.stage, ridge);
  }
  return { words, losses };
}
