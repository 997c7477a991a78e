import type { AttnDims } from "../core/shapes.ts";
import { attnDecodeRef } from "./attn_decode.ts";
import { exact, type Round } from "./round.ts";

/**
 * Twin of `wgsl/attn_prefill.wgsl` in f64, scores kept whole: `out [T][Q][D]`. `round = Math.fround` gives the naive
 * f32 version.
 */
export function attnPrefillRef(
  q: Float32Array,
  keys: Float32Array,
  values: Float32Array,
  dims: AttnDims,
  context: { start: number; seen: number },
  round: Round = exact,
): Float64Array {
  const { o, md } = attnDecodeRef(q, keys, values, dims, context, round);
  return o.map((x, i) => round(x / md[2 * Math.floor(i / dims.headDim) + 1]!));
}
