import { exact, type Round } from "./round.ts";

/**
 * Twin of `wgsl/attn_codes_words.wgsl` in f64: a state for every lookup, `o [lookups][Q][D]` and `md [lookups][Q][2]`;
 * `round = Math.fround` gives the naive f32 version.
 *
 * @param mass `[I][Q][lookups][64]`
 * @param massMd `[I][Q][2]`
 * @param words `[K][64 lookups][P][2]`
 */
export function attnCodesWordsRef(
  mass: Float32Array,
  massMd: Float32Array,
  words: Float64Array,
  dims: { qHeads: number; kvHeads: number; headDim: number; lookups: number },
  round: Round = exact,
): { o: Float64Array; md: Float64Array } {
  const { qHeads, kvHeads, headDim, lookups } = dims, P = headDim / 2, splits = massMd.length / 2 / qHeads;
  const o = new Float64Array(lookups * qHeads * headDim), md = new Float64Array(lookups * qHeads * 2);
  for (let h = 0; h < qHeads; h++) {
    let m = -3.4028234663852886e38, d = 0;
    for (let i = 0; i < splits; i++) m = Math.max(m, massMd[2 * (i * qHeads + h)]!);
    const shrink = Array.from({ length: splits }, (_, i) => round(Math.exp(round(massMd[2 * (i * qHeads + h)]! - m))));
    for (let i = 0; i < splits; i++) d = round(d + round(shrink[i]! * massMd[2 * (i * qHeads + h) + 1]!));
    for (let row = 0; row < 64 * lookups; row++) {
      let sum = 0;
      for (let i = 0; i < splits; i++) {
        sum = round(sum + round(shrink[i]! * mass[(i * qHeads + h) * 64 * lookups + row]!));
      }
      const from = (Math.floor(h * kvHeads / qHeads) * 64 * lookups + row) * headDim;
      const to = (Math.floor(row / 64) * qHeads + h) * headDim;
      for (let c = 0; c < headDim; c++) {
        const word = words[from + 2 * (c % P) + (c < P ? 0 : 1)]!;
        o[to + c] = round(o[to + c]! + round(sum * word));
      }
    }
    for (let l = 0; l < lookups; l++) md.set([m, l === 0 ? d : 0], 2 * (l * qHeads + h));
  }
  return { o, md };
}
