import { exact, type Round } from "./round.ts";

/** Twin of `wgsl/matmul.wgsl` in f64: `x [T][cols]` by `weights [rows][cols]`, plus `residual` where out held it. */
export function matmulRef(
  weights: ArrayLike<number>,
  x: ArrayLike<number>,
  cols: number,
  residual?: ArrayLike<number>,
  round: Round = exact,
): Float64Array {
  const rows = weights.length / cols, tokens = x.length / cols, out = new Float64Array(tokens * rows);
  const w = Float64Array.from(weights, round);
  for (let t = 0; t < tokens; t++) {
    for (let r = 0; r < rows; r++) {
      let sum = 0;
      for (let c = 0; c < cols; c++) sum = round(sum + round(w[r * cols + c]! * x[t * cols + c]!));
      out[t * rows + r] = residual ? round(sum + residual[t * rows + r]!) : sum;
    }
  }
  return out;
}
