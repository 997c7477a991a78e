import {
  baseOf,
  type CodecShape,
  fields,
  GAIN_BITS,
  gainOf,
  gainUnit,
  moreStages,
  rawCount,
  tableRows,
} from "../core/codec.ts";
import { residualAt } from "./code_residual.ts";

/**
 * Twin of `wgsl/code_beam.wgsl` in f64: after each code the `beam` ways of least error among all words of all ways, on a
 * tie the lower way, then the lower code. Codes `[T][heads][rawCount]`, last the gain of the further stages if there are
 * tiers; `residual` is changed to what they miss. `words` is `[heads][rows][D]`.
 */
export function codeBeamRef(
  residual: Float64Array,
  words: ArrayLike<number>,
  codec: CodecShape,
  heads: number,
  tokens: number,
  beam: number,
): Uint16Array {
  const list = fields(codec), { headDim } = codec, rows = tableRows(codec), count = rawCount(codec);
  const codes = new Uint16Array(tokens * heads * count), ofAll = codec.stages.length - moreStages(codec);
  for (let token = 0; token < tokens; token++) {
    for (let head = 0; head < heads; head++) {
      const at = (c: number): number => residualAt(headDim, tokens, head, token, c);
      const start = Float64Array.from({ length: headDim }, (_, c) => residual[at(c)]!);
      let ways: { left: Float64Array; codes: number[] }[] = [{ left: start, codes: [] }];
      let gain: number | undefined;
      for (const { stage, row, pair, pairs, bits } of list) {
        if (stage === ofAll && gain === undefined) {
          gain = gainCode(ways[0]!.left, gainUnit(codec) * meanLength(words, codec, head));
          for (const { left } of ways) left.forEach((x, c) => left[c] = x / gainOf(gain!));
        }
        const first = 2 * pair, last = first + 2 * pairs;
        const less = (left: Float64Array, code: number): Float64Array => {
          const out = left.slice();
          for (const word of bits === 12 ? [code >> 6, 64 + (code & 63)] : [code]) {
            for (let c = first; c < last; c++) out[c]! -= words[((head * rows + row) + word) * headDim + c]!;
          }
          return out;
        };
        ways = ways.flatMap((way) =>
          Array.from({ length: 2 ** bits }, (_, code) => {
            const left = less(way.left, code);
            return { way, code, error: left.reduce((sum, x) => sum + x * x, 0) };
          })
        ).sort((a, b) => a.error - b.error).slice(0, beam)
          .map(({ way, code }) => ({ left: less(way.left, code), codes: [...way.codes, code] }));
      }
      codes.set([...ways[0]!.codes, ...gain === undefined ? [] : [gain]], (token * heads + head) * count);
      ways[0]!.left.forEach((x, c) => residual[at(c)] = x * gainOf(gain ?? 0));
    }
  }
  return codes;
}

/** Mean squared length of words, pairs or one for each group, of a head's first further stage. */
function meanLength(words: ArrayLike<number>, codec: CodecShape, head: number): number {
  const { headDim, stages, base = 0 } = codec, from = (head * tableRows(codec) + tableRows(baseOf(codec))) * headDim;
  const isPair = stages[base]!.kind === "pair", count = isPair ? 64 : 256;
  let sum = 0;
  for (let i = 0; i < count; i++) {
    for (let j = 0; j < (isPair ? count : 1); j++) {
      for (let c = 0; c < headDim; c++) {
        sum += (words[from + i * headDim + c]! + (isPair ? words[from + (64 + j) * headDim + c]! : 0)) ** 2;
      }
    }
  }
  return sum / (isPair ? count ** 2 : count);
}

/** The gain at which what is left is nearest to a unit's length. */
function gainCode(left: Float64Array, unit: number): number {
  const energy = left.reduce((sum, x) => sum + x * x, 0);
  return Math.max(
    0,
    Math.min(2 ** GAIN_BITS - 1, Math.round(Math.log2(Math.max(energy, 1e-30) / Math.max(unit, 1e-30)))),
  );
}
