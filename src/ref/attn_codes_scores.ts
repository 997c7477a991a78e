import { exact, type Round } from "./round.ts";

/**
 * Twin of `wgsl/attn_codes_scores.wgsl` in f64, for keys that are decoded and rotated (see `codeDecodeRef`): `[Q][T]`.
 * `round = Math.fround` gives the naive f32 version.
 *
 * @param q rotated and scaled, `[Q][D]`
 * @param keys `[K][T][D]`
 */
export function attnCodesScoresRef(
  q: Float32Array,
  keys: Float64Array,
  { qHeads, kvHeads, headDim }: { qHeads: number; kvHeads: number; headDim: number },
  round: Round = exact,
): Float64Array {
  const tokens = keys.length / kvHeads / headDim, out = new Float64Array(qHeads * tokens);
  for (let h = 0; h < qHeads; h++) {
    const k = Math.floor(h * kvHeads / qHeads);
    for (let t = 0; t < tokens; t++) {
      let sum = 0;
      for (let c = 0; c < headDim; c++) {
        sum = round(sum + round(q[h * headDim + c]! * keys[(k * tokens + t) * headDim + c]!));
      }
      out[h * tokens + t] = sum;
    }
  }
  return out;
}
