import { codeBits, type CodecShape, fields, gainOf, moreStages, tableRows } from "../core/codec.ts";
import { getCode } from "../core/pack.ts";
import { furtherCodes } from "./code_tier.ts";
import { exact, type Round } from "./round.ts";

/** A packed stream as numbers: words `[K][rows][P][2]`, codes `u32 [blocks][K][bits]`, a scale a token. */
export interface PackedNumbers {
  readonly codec: CodecShape;
  readonly kvHeads: number;
  readonly words: Float64Array;
  readonly codes: Uint32Array;
  readonly scales: Float64Array;
  /** Further codes, where the codec has tiers. */
  readonly more?: Uint32Array;
}

/** Positions of tokens `t` of head `k`, and the frequencies `[P]` to turn them by. */
export interface Rotation {
  readonly frequencies: Float64Array;
  position(k: number, t: number): number;
}

/** The rows of the table that each of a token's lookups reads, in order, with the pairs that it covers and its gain. */
export function lookupsOf(
  { codec, kvHeads, codes, more }: Pick<PackedNumbers, "codec" | "kvHeads" | "codes" | "more">,
  k: number,
  t: number,
): { row: number; pair: number; pairs: number; gain: number }[] {
  const block = ((t >>> 5) * kvHeads + k) * codeBits(codec), ofAll = codec.stages.length - moreStages(codec);
  const further = more ? furtherCodes(codec, kvHeads, more, k, t) : [], ofFurther = gainOf(further.at(-1) ?? 0);
  let next = 0;
  return fields(codec).flatMap(({ stage, word, bits, row, pair, pairs }) => {
    const code = stage < ofAll ? getCode(codes, block + word, bits, t & 31) : further[next++];
    if (code === undefined) return [];
    const covers = { pair, pairs, gain: stage < ofAll ? 1 : ofFurther };
    return bits === 8
      ? [{ row: row + code, ...covers }]
      : [{ row: row + (code >> 6), ...covers }, { row: row + 64 + (code & 63), ...covers }];
  });
}

/**
 * Twin of `wgsl/code_decode.wgsl` in f64: vectors `[K][T][D]` of `tokens` tokens from `first` on, turned by `rotation` if
 * given. `round = Math.fround` gives the naive f32 version, and `roundSum` what is done after adding words.
 */
export function codeDecodeRef(
  packed: PackedNumbers,
  { first = 0, tokens, rotation }: { first?: number; tokens: number; rotation?: Rotation },
  round: Round = exact,
  roundSum: Round = round,
): Float64Array {
  const { codec, kvHeads, words, scales } = packed, { headDim } = codec, P = headDim / 2, rows = tableRows(codec);
  const out = new Float64Array(kvHeads * tokens * headDim), re = new Float64Array(P), im = new Float64Array(P);
  for (let k = 0; k < kvHeads; k++) {
    for (let t = 0; t < tokens; t++) {
      re.fill(0);
      im.fill(0);
      for (const { row, pair, pairs, gain } of lookupsOf(packed, k, first + t)) {
        for (let d = pair; d < pair + pairs; d++) {
          const at = 2 * ((k * rows + row) * P + d);
          re[d] = roundSum(re[d]! + round(gain * words[at]!));
          im[d] = roundSum(im[d]! + round(gain * words[at + 1]!));
        }
      }
      const to = (k * tokens + t) * headDim, scale = scales[first + t]!;
      for (let d = 0; d < P; d++) {
        const x = round(re[d]! * scale), y = round(im[d]! * scale);
        const angle = rotation ? round(rotation.position(k, first + t) * round(rotation.frequencies[d]!)) : 0;
        const cosine = round(Math.cos(angle)), sine = round(Math.sin(angle));
        out[to + d] = round(round(x * cosine) - round(y * sine));
        out[to + d + P] = round(round(x * sine) + round(y * cosine));
      }
    }
  }
  return out;
}
