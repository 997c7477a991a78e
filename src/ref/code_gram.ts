import { type CodecShape, stageRows, tableRows } from "../core/codec.ts";
import { exact, type Round } from "./round.ts";

/** Twin of `wgsl/code_gram.wgsl` in f64 for words `[heads][rows][D]`; `round = Math.fround` gives the naive f32 version. */
export function codeGramRef(
  words: ArrayLike<number>,
  heads: number,
  codec: CodecShape,
  round: Round = exact,
): Float64Array {
  const { headDim } = codec, all = tableRows(codec), out: number[] = [];
  const inner = (a: number, b: number, from: number, count: number): number => {
    let sum = 0;
    for (let c = from; c < from + count; c++) {
      sum = round(sum + round(words[a * headDim + c]! * words[b * headDim + c]!));
    }
    return sum;
  };
  for (let head = 0; head < heads; head++) {
    let row = head * all;
    for (const stage of codec.stages) {
      if (stage.kind === "pair") {
        for (let w = 0; w < 128; w++) out.push(inner(row + w, row + w, 0, headDim));
        for (let b = 0; b < 64; b++) {
          for (let a = 0; a < 64; a++) out.push(2 * inner(row + a, row + 64 + b, 0, headDim));
        }
      } else {
        const width = 2 * stage.pairs;
        for (let from = 0; from < headDim; from += width) {
          for (let w = 0; w < 256; w++) out.push(inner(row + w, row + w, from, width));
        }
      }
      row += stageRows(stage);
    }
  }
  return Float64Array.from(out);
}
