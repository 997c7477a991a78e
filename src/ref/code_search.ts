import { exact, type Round } from "./round.ts";

/**
 * Twin of `wgsl/code_search.wgsl` in f64 for words `[heads][rows][D]` and metrics `[heads][D][D]`, not yet in half
 * precision; `round = Math.fround` gives the naive f32 version.
 */
export function codeSearchRef(
  words: ArrayLike<number>,
  metric: ArrayLike<number>,
  heads: number,
  headDim: number,
  round: Round = exact,
): Float64Array {
  const out = new Float64Array(words.length), size = words.length / heads;
  for (let i = 0; i < out.length; i++) {
    const c = i % headDim, row = i - c, head = Math.floor(i / size) * headDim;
    for (let j = 0; j < headDim; j++) {
      out[i] = round(out[i]! + round(words[row + j]! * metric[(head + j) * headDim + c]!));
    }
  }
  return out;
}
