/**
 * What a packed word is: codes in blocks of 32 tokens, so that any width fills whole words.
 *
 * `codes u32 [blocks][K][bits]`: a block of one head holds its fields in order, and a field of b bits takes b words, in
 * which token t of the block has bits `[b·t, b·t + b)`, least significant first. Blocks come first, so a cache grows
 * and is cut at its end without moving anything. `wgsl/code_encode.wgsl` writes this layout and `wgsl/parts/octet.wgsl` reads it.
 *
 * Where a codec has tiers, blocks hold the stages of every token, and `more u32` what some tokens have more: first where
 * each head's further codes begin and the last's end, `[K + 1]` words from the start; then an index `[blocks][K][2]` (which
 * of a block's tokens, as bits; how many of the head's earlier tokens); then each head's further codes `[room / 32][bits]`,
 * in blocks as above, whose last field is the gain of 4 bits. There the place of a token is its *rank*: how many of the
 * head's earlier tokens have further codes.
 *
 * @module
 */
import { baseOf, codeBits, type CodecShape, fields, moreBits, moreFields } from "./codec.ts";

/** Tokens of a block. */
export const BLOCK = 32;

/** Blocks that hold `tokens`. */
export function blocks(tokens: number): number {
  return Math.ceil(tokens / BLOCK);
}

/** Writes a code of `bits` bits at token `t` of the field that starts at `words[at]`. The place must hold zeros. */
export function putCode(words: Uint32Array, at: number, bits: number, t: number, code: number): void {
  const bit = t * bits, word = at + (bit >>> 5), shift = bit & 31;
  words[word]! |= code << shift;
  if (shift + bits > 32) words[word + 1]! |= code >>> (32 - shift);
}

/** The code of `bits` bits at token `t` of the field that starts at `words[at]`. */
export function getCode(words: Uint32Array, at: number, bits: number, t: number): number {
  const bit = t * bits, word = at + (bit >>> 5), shift = bit & 31;
  const low = words[word]! >>> shift, high = shift + bits > 32 ? words[word + 1]! << (32 - shift) : 0;
  return (low | high) & ((1 << bits) - 1);
}

/** Packs `codes [T][K][fields of all tokens]` to words `[blocks(T)][K][bits]`; the last block is padded with zeros. */
export function packCodes(shape: CodecShape, kvHeads: number, codes: Uint16Array): Uint32Array {
  const list = fields(baseOf(shape)), bits = codeBits(shape), tokens = codes.length / (kvHeads * list.length);
  const words = new Uint32Array(blocks(tokens) * kvHeads * bits);
  for (let t = 0; t < tokens; t++) {
    for (let k = 0; k < kvHeads; k++) {
      const block = ((t >>> 5) * kvHeads + k) * bits, from = (t * kvHeads + k) * list.length;
      list.forEach((field, f) => putCode(words, block + field.word, field.bits, t & 31, codes[from + f]!));
    }
  }
  return words;
}

/** The inverse of {@linkcode packCodes} for the first `tokens`. */
export function unpackCodes(shape: CodecShape, kvHeads: number, words: Uint32Array, tokens: number): Uint16Array {
  const list = fields(baseOf(shape)), bits = codeBits(shape), codes = new Uint16Array(tokens * kvHeads * list.length);
  for (let t = 0; t < tokens; t++) {
    for (let k = 0; k < kvHeads; k++) {
      const block = ((t >>> 5) * kvHeads + k) * bits, to = (t * kvHeads + k) * list.length;
      list.forEach((field, f) => codes[to + f] = getCode(words, block + field.word, field.bits, t & 31));
    }
  }
  return codes;
}

/** Room for further codes over the share of tokens that are meant to have some. */
export const MORE_SLACK = 1.125;
/** Words of the index of a block and head. */
export const INDEX_WORDS = 2;

/**
 * Tokens of a head that further codes are kept for, in whole blocks, of `capacity` of which a `share` is meant to have
 * some: an eighth more.
 */
export function moreRoom(capacity: number, share: number): number {
  return blocks(Math.min(capacity, Math.ceil(MORE_SLACK * share * capacity) + BLOCK)) * BLOCK;
}

/** The first `[K + 1]` words of `more` with `rooms [K]`, multiples of 32. The last is how many words there are. */
export function moreStarts(shape: CodecShape, rooms: readonly number[], codeBlocks: number): Uint32Array {
  const starts = new Uint32Array(rooms.length + 1), bits = moreBits(shape);
  starts[0] = indexWord(rooms.length, codeBlocks, 0);
  rooms.forEach((room, k) => starts[k + 1] = starts[k]! + room / BLOCK * bits);
  return starts;
}

/** First word of the index of a block and head. */
export function indexWord(kvHeads: number, block: number, head: number): number {
  return kvHeads + 1 + INDEX_WORDS * (block * kvHeads + head);
}

/**
 * Puts one head's further codes of `count` tokens, ranks 0 and on of `from`, at ranks `rank` and on of `words`, which must
 * hold zeros there.
 */
export function putRanks(shape: CodecShape, words: Uint32Array, rank: number, from: Uint32Array, count: number): void {
  const list = moreFields(shape), bits = moreBits(shape);
  for (let r = 0; r < count; r++) {
    const source = (r >>> 5) * bits, block = ((rank + r) >>> 5) * bits;
    for (const { word, bits } of list) {
      putCode(words, block + word, bits, (rank + r) & 31, getCode(from, source + word, bits, r & 31));
    }
  }
}
