import type { AttnDims } from "../core/shapes.ts";
import type { AttnStates } from "./attn_step.ts";
import { exact, expOf, type Round } from "./round.ts";

/** What a token sees: all slots up to its own, or of these the near ones or the far ones alone. */
export interface AttnPrefillContext {
  readonly start: number;
  /** Slots that the first token sees, its own included. */
  readonly seen: number;
  readonly mask?: "near" | "far";
  /** Newest slots that are near, a token's own included. */
  readonly window?: number;
  /** First slots that are near. */
  readonly sinks?: number;
}

/**
 * Twin of `wgsl/attn_prefill.wgsl` in f64, scores kept whole, as partial states: `o [1][T·Q][D]`, `md [1][T·Q][2]`.
 * `round = Math.fround` gives the naive f32 version.
 */
export function attnPrefillStatesRef(
  q: Float32Array,
  keys: Float32Array,
  values: Float32Array,
  dims: AttnDims,
  { start, seen, mask, window = 1, sinks = 0 }: AttnPrefillContext,
  round: Round = exact,
): AttnStates {
  const { tokens, qHeads, kvHeads, headDim, capacity } = dims, rows = tokens * qHeads;
  const o = new Float64Array(rows * headDim), md = new Float64Array(rows * 2);
  for (let r = 0; r < rows; r++) {
    const t = Math.floor(r / qHeads), k = Math.floor(r % qHeads * kvHeads / qHeads), own = seen - 1 + t;
    const slots = Array.from({ length: own + 1 }, (_, n) => n)
      .filter((n) => mask === undefined || (n < sinks || n > own - window) === (mask === "near"));
    const scores = slots.map((n) => {
      const from = (k * capacity + start + n) * headDim;
      let sum = 0;
      for (let c = 0; c < headDim; c++) sum = round(sum + round(q[r * headDim + c]! * keys[from + c]!));
      return sum;
    });
    const m = scores.reduce((a, b) => Math.max(a, b), -3.4028234663852886e38);
    let d = 0;
    scores.forEach((score, j) => {
      const w = expOf(round(score - m), round), from = (k * capacity + start + slots[j]!) * headDim;
      d = round(d + w);
      for (let c = 0; c < headDim; c++) o[r * headDim + c] = round(o[r * headDim + c]! + round(w * values[from + c]!));
    });
    md.set([m, d], 2 * r);
  }
  return { o, md };
}

/** The attention that {@linkcode attnPrefillStatesRef}'s states come to: `out [T][Q][D]`. */
export function attnPrefillRef(
  q: Float32Array,
  keys: Float32Array,
  values: Float32Array,
  dims: AttnDims,
  context: AttnPrefillContext,
  round: Round = exact,
): Float64Array {
  const { o, md } = attnPrefillStatesRef(q, keys, values, dims, context, round);
  return o.map((x, i) => round(x / md[2 * Math.floor(i / dims.headDim) + 1]!));
}
