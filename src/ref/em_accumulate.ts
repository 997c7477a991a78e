import { stageRows } from "../core/codec.ts";
import { BLOCK, blocks } from "../core/pack.ts";
import { type EmDims, stageSizes } from "../core/shapes.ts";
import { residualAt } from "./code_residual.ts";
import { exact, type Round } from "./round.ts";

/** What the sums are over. Codes `[heads][groups][T]`, or weights `[heads][T][128]` of a soft E step. */
export interface Assigned {
  readonly residual: ArrayLike<number>;
  readonly codes?: Uint32Array;
  readonly weights?: ArrayLike<number>;
  readonly distances: ArrayLike<number>;
  /** `[T]`, as numbers. */
  readonly scales: ArrayLike<number>;
}

/**
 * Twin of `wgsl/em_accumulate.wgsl` and of `em_reduce` after it: all tokens' sums `[heads][WIDTH]` in f64;
 * `round = Math.fround` gives the naive f32 version. Counts are 0 where weights are given.
 */
export function emAccumulateRef(from: Assigned, dims: EmDims, round: Round = exact): Float64Array {
  const { headDim, heads, tokens, stage } = dims, { groups, cells, sums: width } = stageSizes(headDim, stage);
  const { residual, codes, weights, distances, scales } = from, all = blocks(tokens) * BLOCK;
  const out = new Float64Array(heads * width), rows = stageRows(stage);
  for (let head = 0; head < heads; head++) {
    const add = (at: number, x: number): void => {
      out[head * width + at] = round(out[head * width + at]! + round(x));
    };
    for (let t = 0; t < tokens; t++) {
      for (let c = 0; c < headDim; c++) {
        const x = residual[residualAt(headDim, tokens, head, t, c)]!, group = Math.floor(c * groups / headDim);
        if (weights) {
          for (let w = 0; w < 128; w++) add(w * headDim + c, weights[(head * all + t) * 128 + w]! * x);
          continue;
        }
        const code = codes![(head * groups + group) * all + t]!;
        const words = stage.kind === "pair" ? [code >> 6, 64 + (code & 63)] : [code];
        for (const word of words) add(word * headDim + c, x);
      }
      for (let group = 0; codes && group < groups; group++) {
        add(rows * headDim + group * 256 + codes[(head * groups + group) * all + t]!, 1);
      }
      const distance = distances[head * all + t]!;
      add(rows * headDim + cells, distance);
      add(rows * headDim + cells + 1, round(distance * round(scales[t]! ** 2)));
    }
  }
  return out;
}
