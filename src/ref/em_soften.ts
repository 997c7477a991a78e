import { BLOCK, blocks } from "../core/pack.ts";
import type { EmDims } from "../core/shapes.ts";
import { distanceRef } from "./em_assign.ts";
import { exact, type Round } from "./round.ts";

/**
 * Twin of `wgsl/em_soften.wgsl` in f64, for all tokens at once: weights `[heads][T][128]` and counts `[heads][64][64]`.
 * `round = Math.fround` gives a version whose distances are f32.
 */
export function emSoftenRef(
  residual: ArrayLike<number>,
  words: ArrayLike<number>,
  dims: EmDims,
  temperature: number,
  round: Round = exact,
): { weights: Float64Array; counts: Float64Array } {
  const { heads, tokens } = dims, all = blocks(tokens) * BLOCK;
  const weights = new Float64Array(heads * all * 128), counts = new Float64Array(heads * 4096);
  for (let head = 0; head < heads; head++) {
    for (let token = 0; token < tokens; token++) {
      const distances = Float64Array.from(
        { length: 4096 },
        (_, code) => round(Math.sqrt(round(distanceRef(residual, words, dims, { head, token, group: 0, code })))),
      );
      const least = distances.reduce((a, b) => Math.min(a, b));
      const each = distances.map((d) => Math.exp(round((least - d) / temperature))), sum = each.reduce((a, b) => a + b);
      each.forEach((w, code) => {
        weights[(head * all + token) * 128 + (code >> 6)]! += w / sum;
        weights[(head * all + token) * 128 + 64 + (code & 63)]! += w / sum;
        counts[head * 4096 + code]! += w / sum;
      });
    }
  }
  return { weights, counts };
}
