import { baseOf, type CodecShape, fields, moreBits, moreFields, rawCount } from "../core/codec.ts";
import { BLOCK, getCode, indexWord, moreStarts, putCode } from "../core/pack.ts";

/**
 * Twin of `wgsl/code_tier.wgsl`: `more` for tokens `[K][T]` of which some are `missed`, and codes `all [K][T][rawCount]`, from
 * block 0 on; and whose further codes there was room for, `[K][T]`.
 */
export function codeTierRef(
  codec: CodecShape,
  heads: number,
  missed: readonly boolean[],
  all: ArrayLike<number>,
  { codeBlocks, rooms }: { codeBlocks: number; rooms: readonly number[] },
): { more: Uint32Array; held: boolean[] } {
  const count = rawCount(codec), few = fields(baseOf(codec)).length, tokens = missed.length / heads;
  const starts = moreStarts(codec, rooms, codeBlocks), more = new Uint32Array(starts[heads]!), list = moreFields(codec);
  more.set(starts);
  const held: boolean[] = [];
  for (let k = 0; k < heads; k++) {
    let rank = 0;
    for (let t = 0; t < tokens; t++) {
      const index = indexWord(heads, t >>> 5, k);
      if (t % BLOCK === 0) more[index + 1] = rank;
      const holds = missed[k * tokens + t]! && rank < rooms[k]!;
      held.push(holds);
      if (!holds) continue;
      more[index]! |= 1 << (t & 31);
      const block = rankBlock(codec, more, k, rank), from = (k * tokens + t) * count + few;
      list.forEach(({ word, bits }, f) => putCode(more, block + word, bits, rank & 31, all[from + f]!));
      rank++;
    }
  }
  return { more, held };
}

/**
 * The further codes of token `t` of head `k`, by field from the first on that not all tokens have, and last its gain; none if
 * it has none.
 */
export function furtherCodes(
  codec: CodecShape,
  heads: number,
  more: Uint32Array,
  k: number,
  t: number,
): number[] {
  const index = indexWord(heads, t >>> 5, k), mask = more[index]!;
  if ((mask >>> (t & 31) & 1) === 0) return [];
  let rank = more[index + 1]!;
  for (let b = 0; b < (t & 31); b++) rank += mask >>> b & 1;
  const block = rankBlock(codec, more, k, rank);
  return moreFields(codec).map(({ word, bits }) => getCode(more, block + word, bits, rank & 31));
}

/** First word of the block of further codes that holds a head's rank. */
export function rankBlock(codec: CodecShape, more: Uint32Array, k: number, rank: number): number {
  return more[k]! + (rank >>> 5) * moreBits(codec);
}
