import type { AttnDims } from "../core/shapes.ts";
import { exact, type Round } from "./round.ts";

/** What `rope_store` makes, as numbers: `q [T][Q][D]`, `keys` and `values` `[K][T][D]`, not yet in half precision. */
export interface RopeStored {
  readonly q: Float64Array;
  readonly keys: Float64Array;
  readonly values: Float64Array;
}

/**
 * Twin of `wgsl/rope_store.wgsl` in f64; `round = Math.fround` gives the naive f32 version, angle included.
 *
 * @param frequencies radians a position, `[P]`
 */
export function ropeStoreRef(
  qkv: Float32Array,
  frequencies: Float64Array,
  dims: Omit<AttnDims, "capacity">,
  position: number,
  rotateKeys = true,
  round: Round = exact,
): RopeStored {
  const { tokens, qHeads, kvHeads, headDim } = dims, pairs = headDim / 2, heads = qHeads + 2 * kvHeads;
  const q = new Float64Array(tokens * qHeads * headDim), keys = new Float64Array(tokens * kvHeads * headDim);
  const values = new Float64Array(tokens * kvHeads * headDim), scale = round(1 / Math.sqrt(headDim));
  for (let t = 0; t < tokens; t++) {
    for (let h = 0; h < heads; h++) {
      const kind = h < qHeads ? "q" : h < qHeads + kvHeads ? "key" : "value", from = (t * heads + h) * headDim;
      const out = kind === "q" ? q : kind === "key" ? keys : values;
      const to = kind === "q" ? t * qHeads + h : (h - qHeads) % kvHeads * tokens + t;
      const turns = kind === "q" || kind === "key" && rotateKeys, gain = kind === "q" ? scale : 1;
      for (let d = 0; d < pairs; d++) {
        const angle = turns ? round((position + t) * round(frequencies[d]!)) : 0;
        const cosine = round(Math.cos(angle)), sine = round(Math.sin(angle));
        const re = qkv[from + d]!, im = qkv[from + d + pairs]!;
        out[to * headDim + d] = round(gain * round(round(re * cosine) - round(im * sine)));
        out[to * headDim + d + pairs] = round(gain * round(round(re * sine) + round(im * cosine)));
      }
    }
  }
  return { q, keys, values };
}
