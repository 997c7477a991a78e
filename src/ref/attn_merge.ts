import type { AttnMergeDims } from "../core/shapes.ts";
import { exact, expOf, type Round } from "./round.ts";

/** Twin of `wgsl/attn_merge.wgsl` in f64; `round = Math.fround` gives the naive f32 version. */
export function attnMergeRef(
  o: ArrayLike<number>,
  md: ArrayLike<number>,
  dims: AttnMergeDims,
  round: Round = exact,
): Float64Array {
  const { rows, splits, headDim } = dims, out = new Float64Array(rows * headDim);
  for (let r = 0; r < rows; r++) {
    let m = -Infinity, d = 0;
    for (let i = 0; i < splits; i++) m = Math.max(m, md[2 * (i * rows + r)]!);
    for (let i = 0; i < splits; i++) {
      const at = i * rows + r;
      const w = expOf(round(md[2 * at]! - m), round);
      d = round(d + round(md[2 * at + 1]! * w));
      for (let c = 0; c < headDim; c++) {
        out[r * headDim + c] = round(out[r * headDim + c]! + round(o[at * headDim + c]! * w));
      }
    }
    for (let c = 0; c < headDim; c++) out[r * headDim + c] = d > 0 ? round(out[r * headDim + c]! / d) : 0;
  }
  return out;
}
