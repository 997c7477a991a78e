import { fromF16, toF16 } from "../core/f16.ts";
import type { AttnDims, StepTokens } from "../core/shapes.ts";
import { ropeStoreRef } from "./rope_store.ts";
import { exact, expOf, type Round } from "./round.ts";

/** Partial attention states, as `attn_merge` folds them: `o [I][R][D]` not normalised, `md [I][R][2]`. */
export interface AttnStates {
  readonly o: Float64Array;
  readonly md: Float64Array;
}

/**
 * Twin of `wgsl/attn_step.wgsl` in f64, its output not divided where one split is all; `round = Math.fround` gives the
 * naive f32 version. Puts the token into `keys` and `values [K][capacity][D]`, as half precision holds it.
 *
 * @param qkv `[Q + 2K][D]`
 * @param frequencies radians a position, `[P]`
 */
export function attnStepRef(
  qkv: Float32Array,
  keys: Float32Array,
  values: Float32Array,
  frequencies: Float64Array,
  dims: Omit<AttnDims, "tokens">,
  { position, slot = position, seen = position + 1, hole = seen, gap = 0, splits = 1, span = seen }: StepTokens & {
    readonly span?: number;
  },
  round: Round = exact,
): AttnStates & { readonly q: Float64Array } {
  const { qHeads, kvHeads, headDim, capacity } = dims;
  const stored = ropeStoreRef(qkv, frequencies, { ...dims, tokens: 1 }, position, true, round), { q } = stored;
  for (let k = 0; k < kvHeads; k++) {
    const from = k * headDim, to = (k * capacity + slot) * headDim, half = (x: number): number => fromF16(toF16(x));
    keys.set(stored.keys.subarray(from, from + headDim).map(half), to);
    values.set(stored.values.subarray(from, from + headDim).map(half), to);
  }
  const o = new Float64Array(splits * qHeads * headDim), md = new Float64Array(splits * qHeads * 2);
  for (let i = 0; i < splits; i++) {
    for (let h = 0; h < qHeads; h++) {
      const k = Math.floor(h * kvHeads / qHeads), to = i * qHeads + h, scores: number[] = [], rows: number[] = [];
      for (let n = i * span; n < Math.min((i + 1) * span, seen); n++) {
        const from = (k * capacity + n + (n >= hole ? gap : 0)) * headDim;
        let sum = 0;
        for (let c = 0; c < headDim; c++) sum = round(sum + round(q[h * headDim + c]! * keys[from + c]!));
        scores.push(sum);
        rows.push(from);
      }
      const m = scores.reduce((a, b) => Math.max(a, b), -3.4028234663852886e38);
      let d = 0;
      scores.forEach((score, j) => {
        const w = expOf(round(score - m), round);
        d = round(d + w);
        for (let c = 0; c < headDim; c++) {
          o[to * headDim + c] = round(o[to * headDim + c]! + round(w * values[rows[j]! + c]!));
        }
      });
      md.set([m, d], 2 * to);
    }
  }
  return { o, md, q };
}
