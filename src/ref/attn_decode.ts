import type { AttnDims } from "../core/shapes.ts";
import { exact, expOf, type Round } from "./round.ts";

/** Partial attention states, as `attn_merge` folds them: `o [I][R][D]` not normalised, `md [I][R][2]`. */
export interface AttnStates {
  readonly o: Float64Array;
  readonly md: Float64Array;
}

/**
 * Twin of `wgsl/attn_decode.wgsl` in f64, in splits of `span` slots; `round = Math.fround` gives the naive f32 version.
 *
 * @param q rotated and scaled, `[T][Q][D]`
 * @param keys the cache's numbers, `[K][capacity][D]`; values likewise
 */
export function attnDecodeRef(
  q: ArrayLike<number>,
  keys: Float32Array,
  values: Float32Array,
  dims: AttnDims,
  { start, seen, splits = 1, span = Infinity }: { start: number; seen: number; splits?: number; span?: number },
  round: Round = exact,
): AttnStates {
  const { tokens, qHeads, kvHeads, headDim, capacity } = dims, rows = tokens * qHeads;
  const o = new Float64Array(splits * rows * headDim), md = new Float64Array(splits * rows * 2);
  for (let i = 0; i < splits; i++) {
    for (let r = 0; r < rows; r++) {
      const t = Math.floor(r / qHeads), k = Math.floor(r % qHeads * kvHeads / qHeads), to = i * rows + r;
      const first = splits === 1 ? 0 : i * span, end = Math.min(first + span, seen + t), scores: number[] = [];
      for (let n = first; n < end; n++) {
        const from = (k * capacity + start + n) * headDim;
        let sum = 0;
        for (let c = 0; c < headDim; c++) sum = round(sum + round(q[r * headDim + c]! * keys[from + c]!));
        scores.push(sum);
      }
      const m = scores.reduce((a, b) => Math.max(a, b), -3.4028234663852886e38);
      let d = 0;
      scores.forEach((score, j) => {
        const w = expOf(round(score - m), round), from = (k * capacity + start + first + j) * headDim;
        d = round(d + w);
        for (let c = 0; c < headDim; c++) {
          o[to * headDim + c] = round(o[to * headDim + c]! + round(w * values[from + c]!));
        }
      });
      md.set([m, d], 2 * to);
    }
  }
  return { o, md };
}
