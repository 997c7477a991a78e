import { stageRows } from "../core/codec.ts";
import { BLOCK, blocks } from "../core/pack.ts";
import { type EmDims, stageSizes } from "../core/shapes.ts";
import { residualAt } from "./code_residual.ts";
import { exact, type Round } from "./round.ts";

/** Squared distance of a token's group to the word of `code`; `round = Math.fround` gives the naive f32 version. */
export function distanceRef(
  residual: ArrayLike<number>,
  words: ArrayLike<number>,
  { headDim, tokens, stage }: EmDims,
  at: { head: number; token: number; group: number; code: number },
  round: Round = exact,
): number {
  const width = headDim / stageSizes(headDim, stage).groups, from = at.head * stageRows(stage) * headDim;
  let sum = 0;
  for (let c = at.group * width; c < (at.group + 1) * width; c++) {
    const x = residual[residualAt(headDim, tokens, at.head, at.token, c)]!;
    const w = stage.kind === "pair"
      ? round(words[from + (at.code >> 6) * headDim + c]! + words[from + (64 + (at.code & 63)) * headDim + c]!)
      : words[from + at.code * headDim + c]!;
    sum = round(sum + round(round(x - w) ** 2));
  }
  return sum;
}

/** Twin of `wgsl/em_assign.wgsl` in f64, by looking at every word: the nearest, the lowest code on a tie. */
export function emAssignRef(
  residual: ArrayLike<number>,
  words: ArrayLike<number>,
  dims: EmDims,
): { codes: Uint32Array; distances: Float64Array } {
  const { headDim, heads, tokens, stage } = dims, { groups } = stageSizes(headDim, stage), all = blocks(tokens) * BLOCK;
  const codes = new Uint32Array(heads * groups * all).fill(0xffffffff), distances = new Float64Array(heads * all);
  const count = stage.kind === "pair" ? 4096 : 256;
  for (let head = 0; head < heads; head++) {
    for (let token = 0; token < tokens; token++) {
      for (let group = 0; group < groups; group++) {
        let best = Infinity, which = 0;
        for (let code = 0; code < count; code++) {
          const distance = distanceRef(residual, words, dims, { head, token, group, code });
          if (distance < best) [best, which] = [distance, code];
        }
        codes[(head * groups + group) * all + token] = which;
        distances[head * all + token]! += best;
      }
    }
  }
  return { codes, distances };
}
