/** Sample queries and caches for the attention tests. */
import { fromF16Array, toF16Array } from "../../src/core/f16.ts";
import { Rng } from "../../src/core/rng.ts";
import type { AttnDims } from "../../src/core/shapes.ts";
import { normals } from "../_assert.ts";

/** Queries, and caches both as numbers and as half-precision bits. */
export interface AttnSample {
  readonly q: Float32Array;
  readonly keys: Float32Array;
  readonly values: Float32Array;
  readonly keyBits: Uint16Array;
  readonly valueBits: Uint16Array;
}

/** Slots outside `[start, end)` are NaN, so that an attention that strays shows. `sharpness` scales the scores. */
export function attnSample(dims: AttnDims, start: number, end: number, sharpness = 1): AttnSample {
  const { tokens, qHeads, kvHeads, headDim, capacity } = dims, rng = new Rng(tokens + 31 * headDim + end);
  const q = normals(rng, tokens * qHeads * headDim, sharpness / Math.sqrt(headDim));
  const cache = () => {
    const bits = toF16Array(normals(rng, kvHeads * capacity * headDim));
    for (let k = 0; k < kvHeads; k++) {
      const head = bits.subarray(k * capacity * headDim, (k + 1) * capacity * headDim);
      head.fill(0x7e00, 0, start * headDim).fill(0x7e00, end * headDim);
    }
    return bits;
  };
  const keyBits = cache(), valueBits = cache();
  return { q, keyBits, valueBits, keys: fromF16Array(keyBits), values: fromF16Array(valueBits) };
}
