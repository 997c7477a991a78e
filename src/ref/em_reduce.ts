import { exact, type Round } from "./round.ts";

/** Twin of `wgsl/em_reduce.wgsl` in f64: `[heads][count][width]` over parts; `round = Math.fround` is naive f32. */
export function emReduceRef(
  parts: ArrayLike<number>,
  heads: number,
  count: number,
  round: Round = exact,
): Float64Array {
  const width = parts.length / heads / count, out = new Float64Array(heads * width);
  for (let i = 0; i < parts.length; i++) {
    const at = Math.floor(i / width / count) * width + i % width;
    out[at] = round(out[at]! + parts[i]!);
  }
  return out;
}
