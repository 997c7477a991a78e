import type { EmDims } from "../core/shapes.ts";
import { residualAt } from "./code_residual.ts";

/** The errors that `wgsl/code_missed.wgsl` compares, in f64: `[K][T]` squared lengths of residuals times scales. */
export function codeMissedRef(
  residual: ArrayLike<number>,
  scales: ArrayLike<number>,
  { heads, headDim, tokens }: Omit<EmDims, "stage">,
  capacity = tokens,
): Float64Array {
  const out = new Float64Array(heads * tokens);
  for (let head = 0; head < heads; head++) {
    for (let t = 0; t < tokens; t++) {
      let sum = 0;
      for (let c = 0; c < headDim; c++) sum += residual[residualAt(headDim, capacity, head, t, c)]! ** 2;
      out[head * tokens + t] = sum * scales[t]! ** 2;
    }
  }
  return out;
}
