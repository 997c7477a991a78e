import { matvecRef, type MatvecRefForm } from "./matvec.ts";

/** Twin of `wgsl/matvec_planes.wgsl` in f64, for words of `columns` weights: x is rounded, and nothing else is. */
export function matvecPlanesRef(
  weights: ArrayLike<number>,
  x: ArrayLike<number>,
  columns: number,
  { gain, eps = 0, ...form }: MatvecRefForm = {},
): Float64Array {
  let v = Float64Array.from(x), norm = 1;
  if (gain) {
    norm = 1 / Math.sqrt(v.reduce((sum, n) => sum + n * n, 0) / v.length + eps);
    v = v.map((n, c) => n * gain[c]!);
  }
  return matvecRef(weights, roundToPlanes(v, columns).map((n) => n * norm), form);
}

/** Rounds to multiples of a step, one for every so many `columns`, by which the largest of them is 24 bits. */
export function roundToPlanes(x: Float64Array, columns: number): Float64Array {
  const out = new Float64Array(x.length);
  for (let at = 0; at < x.length; at += columns) {
    const some = x.subarray(at, at + columns), most = Math.max(...some.map(Math.abs));
    const step = 2 ** (Math.max(-103, Math.floor(Math.log2(most))) - 22) * 128 / 127;
    out.set(some.map((n) => Math.round(n / step) * step), at);
  }
  return out;
}
