import { exact, type Round } from "./round.ts";

const F32_LOWEST = -3.4028234663852886e38;

/** The largest of a query head's scores, what each token weighs next to it, and the sum of that. */
export function weightsRef(
  scores: ArrayLike<number>,
  round: Round = exact,
): { m: number; d: number; weights: Float64Array } {
  let m = F32_LOWEST, d = 0;
  for (let t = 0; t < scores.length; t++) m = Math.max(m, scores[t]!);
  const weights = Float64Array.from(scores, (score) => round(Math.exp(round(score - m))));
  for (const w of weights) d = round(d + w);
  return { m, d, weights };
}

/**
 * Twin of `wgsl/attn_codes_values.wgsl` in f64, one split, for values that are decoded (see `codeDecodeRef`): `o [Q][D]`
 * not normalised and `md [Q][2]`. `round = Math.fround` gives the naive f32 version.
 *
 * @param scores `[Q][T]`
 * @param values `[K][T][D]`
 */
export function attnCodesValuesRef(
  scores: ArrayLike<number>,
  values: Float64Array,
  { qHeads, kvHeads, headDim }: { qHeads: number; kvHeads: number; headDim: number },
  round: Round = exact,
): { o: Float64Array; md: Float64Array } {
  const tokens = scores.length / qHeads, o = new Float64Array(qHeads * headDim), md = new Float64Array(2 * qHeads);
  for (let h = 0; h < qHeads; h++) {
    const own = Array.prototype.slice.call(scores, h * tokens, (h + 1) * tokens) as number[];
    const { m, d, weights } = weightsRef(own, round), k = Math.floor(h * kvHeads / qHeads);
    md.set([m, d], 2 * h);
    for (let t = 0; t < tokens; t++) {
      for (let c = 0; c < headDim; c++) {
        const part = round(weights[t]! * values[(k * tokens + t) * headDim + c]!);
        o[h * headDim + c] = round(o[h * headDim + c]! + part);
      }
    }
  }
  return { o, md };
}
