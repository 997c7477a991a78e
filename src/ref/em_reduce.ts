import { exact, type Round } from "./round.ts";

/** Twin of `wgsl/em_reduce.wgsl` in f64: sums `[heads][chunks][width]` over chunks; `round = Math.fround` is naive f32. */
export function emReduceRef(
  sums: ArrayLike<number>,
  heads: number,
  chunks: number,
  round: Round = exact,
): Float64Array {
  const width = sums.length / heads / chunks, out = new Float64Array(heads * width);
  for (let i = 0; i < sums.length; i++) {
    const at = Math.floor(i / width / chunks) * width + i % width;
    out[at] = round(out[at]! + sums[i]!);
  }
  return out;
}
