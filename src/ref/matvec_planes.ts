import { matvecRef, type MatvecRefForm } from "./matvec.ts";

/** Types that the kernel is for. */
export type PlanesType = "Q8_0" | "Q4_0";

/** Twin of `wgsl/matvec_planes.wgsl` in f64: x is rounded, and nothing else is. */
export function matvecPlanesRef(
  weights: ArrayLike<number>,
  x: ArrayLike<number>,
  type: PlanesType,
  { gain, eps = 0, ...form }: MatvecRefForm = {},
): Float64Array {
  let v = Float64Array.from(x), norm = 1;
  if (gain) {
    norm = 1 / Math.sqrt(v.reduce((sum, n) => sum + n * n, 0) / v.length + eps);
    v = v.map((n, c) => n * gain[c]!);
  }
  return matvecRef(weights, roundToPlanes(v, type).map((n) => n * norm), form);
}

/** The lane that has a column: half a block of bytes is its own, or a whole one of nibbles. */
export function planesLane(column: number, type: PlanesType): number {
  return column >> (type === "Q8_0" ? 4 : 5);
}

/** Rounds to multiples of a step, one for every lane's columns, by which the largest of them is 23 bits. */
export function roundToPlanes(x: Float64Array, type: PlanesType): Float64Array {
  const most = new Float64Array(Math.ceil(x.length / 32) * 2);
  x.forEach((n, c) => most[planesLane(c, type)] = Math.max(most[planesLane(c, type)]!, Math.abs(n)));
  return x.map((n, c) => {
    const power = Math.max(-103, Math.floor(Math.log2(most[planesLane(c, type)]!)));
    const step = 2 ** (power - 21) * 128 / 127;
    return Math.round(n / step) * step;
  });
}
