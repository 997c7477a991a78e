import { exact, type Round } from "./round.ts";

/**
 * Twin of `wgsl/q_table.wgsl` in f64: `[Q][rows][P][2]`; `round = Math.fround` gives the naive f32 version.
 *
 * @param q `[Q][D]`
 * @param words `[K][rows][P][2]`
 */
export function qTableRef(
  q: Float32Array,
  words: Float64Array,
  { qHeads, kvHeads, headDim, rows }: { qHeads: number; kvHeads: number; headDim: number; rows: number },
  round: Round = exact,
): Float64Array {
  const P = headDim / 2, out = new Float64Array(qHeads * rows * headDim);
  for (let h = 0; h < qHeads; h++) {
    const k = Math.floor(h * kvHeads / qHeads);
    for (let row = 0; row < rows; row++) {
      for (let d = 0; d < P; d++) {
        const from = 2 * ((k * rows + row) * P + d), to = 2 * ((h * rows + row) * P + d);
        const re = words[from]!, im = words[from + 1]!, qRe = q[h * headDim + d]!, qIm = q[h * headDim + d + P]!;
        out[to] = round(round(re * qRe) + round(im * qIm));
        out[to + 1] = round(round(im * qRe) - round(re * qIm));
      }
    }
  }
  return out;
}
