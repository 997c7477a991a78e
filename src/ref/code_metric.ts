import { BLOCK, blocks } from "../core/pack.ts";
import type { EmDims } from "../core/shapes.ts";
import { exact, type Round } from "./round.ts";

/** Twin of `wgsl/code_metric.wgsl` in f64; `round = Math.fround` gives the naive f32 version. */
export function codeMetricRef(
  residual: ArrayLike<number>,
  metric: ArrayLike<number>,
  { heads, headDim, tokens }: Omit<EmDims, "stage">,
  round: Round = exact,
): Float64Array {
  const out = new Float64Array(residual.length), all = blocks(tokens);
  for (let i = 0; i < out.length; i++) {
    const t = i % BLOCK, c = Math.floor(i / BLOCK) % headDim, tile = i - t - c * BLOCK;
    const head = Math.floor(i / BLOCK / headDim / all), row = (head * headDim + c) * headDim;
    if (head >= heads) break;
    for (let j = 0; j < headDim; j++) {
      out[i] = round(out[i]! + round(metric[row + j]! * residual[tile + j * BLOCK + t]!));
    }
  }
  return out;
}
