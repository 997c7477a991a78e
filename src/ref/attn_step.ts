import { fromF16, toF16 } from "../core/f16.ts";
import type { AttnDims } from "../core/shapes.ts";
import { attnDecodeRef, type AttnStates } from "./attn_decode.ts";
import { ropeStoreRef } from "./rope_store.ts";
import { exact, type Round } from "./round.ts";

/**
 * Twin of `wgsl/attn_step.wgsl` in f64, in splits of `span` slots; `round = Math.fround` gives the naive f32 version. Puts
 * the token into `keys` and `values [K][capacity][D]`, as half precision holds it.
 */
export function attnStepRef(
  qkv: Float32Array,
  keys: Float32Array,
  values: Float32Array,
  frequencies: Float64Array,
  dims: Omit<AttnDims, "tokens">,
  { position, splits, span }: { position: number; splits?: number; span?: number },
  round: Round = exact,
): AttnStates {
  const all = { ...dims, tokens: 1 }, { kvHeads, headDim, capacity } = dims, seen = position + 1;
  const stored = ropeStoreRef(qkv, frequencies, all, position, true, round);
  for (let k = 0; k < kvHeads; k++) {
    const from = k * headDim, to = (k * capacity + position) * headDim, halves = (x: number) => fromF16(toF16(x));
    keys.set(stored.keys.subarray(from, from + headDim).map(halves), to);
    values.set(stored.values.subarray(from, from + headDim).map(halves), to);
  }
  return attnDecodeRef(stored.q, keys, values, all, { start: 0, seen, splits, span }, round);
}
