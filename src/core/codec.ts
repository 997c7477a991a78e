/**
 * The shape of an additive codec: what is looked up where, and how many bits that takes.
 *
 * A head of dimension D is a vector of P = D/2 complex numbers; component `d` is `x[d] + i·x[d + P]`, for keys before
 * RoPE as for values. Its approximation is a token's scale times a sum of words, one or more a *stage*:
 *
 * - a *pair* stage (CommVQ's, paper eq. 24) covers the whole head by two codes of 6 bits, `u[a] + v[b]`, chosen
 *   together; in the published codec the two halves are *tied*, `v = i·u`;
 * - a *sub* stage cuts the head into groups of a few pairs, and each group has a code of 8 bits of its own.
 *
 * To decode, a stage is a table of rows of P complex numbers: 64 rows of `u` then 64 of `v`, or 256 rows of which a
 * group reads its own columns only.
 *
 * @module
 */

/** Words of each half of a pair stage. */
export const PAIR_WORDS = 64;
/** Words of a sub stage's group. */
export const SUB_WORDS = 256;
/** Bits of the gain that a token's further stages have, where there are two tiers. */
export const GAIN_BITS = 4;

/** Two codes of 6 bits for the whole head, one field of 12 bits: `64·a + b`. */
export interface PairStage {
  /** Marks a pair stage. */
  readonly kind: "pair";
  /** Whether `v = i·u`, as published. */
  readonly tied: boolean;
}

/** A code of 8 bits for every group of `pairs` complex numbers. */
export interface SubStage {
  /** Marks a sub stage. */
  readonly kind: "sub";
  /** Complex numbers of a group. */
  readonly pairs: number;
}

/** One additive term. */
export type Stage = PairStage | SubStage;

/** All stages for a head of dimension `headDim`. */
export interface CodecShape {
  /** Channels of a head. */
  readonly headDim: number;
  /** The terms, in order. */
  readonly stages: readonly Stage[];
  /**
   * Stages that every token is coded in, where there are two *tiers*: tokens that these miss by too much are coded in all
   * stages, the further ones times a *gain* of the token's own ({@linkcode gainOf}). Without it, all tokens are.
   */
  readonly base?: number;
}

/** One stored code: `bits` wide, at word `word` of a block, row `row` of the table plus the code. */
export interface Field<Bits = 12 | 8> {
  readonly stage: number;
  readonly group: number;
  readonly bits: Bits;
  /** First word of the field in a block of 32 tokens, or first bit in a token's codes. */
  readonly word: number;
  /** First row of the stage in the table. */
  readonly row: number;
  /** Columns that the field covers: complex numbers `[pair, pair + pairs)`. */
  readonly pair: number;
  readonly pairs: number;
}

/** Stages of pairs alone, as published. */
export function pairStages(headDim: number, count: number, tied: boolean): CodecShape {
  return { headDim, stages: Array.from({ length: count }, () => ({ kind: "pair", tied })) };
}

/** The published number of stages: round(D/12) at 1 bit, floor(D/6) at 2 bits (5 and 10 at 64, 11 and 21 at 128). */
export function publishedStages(headDim: number, bits: 1 | 2): number {
  return bits === 1 ? Math.round(headDim / 12) : Math.floor(headDim / 6);
}

/** First stages of a codec at so many bits an element: as published where all are of pairs, else as many as do not exceed them. */
export function stagesFor({ headDim, stages }: CodecShape, bits: 1 | 2): number {
  if (stages.every(({ kind }) => kind === "pair")) return publishedStages(headDim, bits);
  let count = 1;
  while (count < stages.length && fieldBits({ headDim, stages: stages.slice(0, count + 1) }) <= bits * headDim) count++;
  return count;
}

/** Rows of a stage's table. */
export function stageRows(stage: Stage): number {
  return stage.kind === "pair" ? 2 * PAIR_WORDS : SUB_WORDS;
}

/** Rows of the whole table: `u32 [rows][P]`, each a complex number in two halves. */
export function tableRows(shape: CodecShape): number {
  return shape.stages.reduce((sum, stage) => sum + stageRows(stage), 0);
}

/** Stages that every token is coded in, as a codec of their own. */
export function baseOf({ headDim, stages, base }: CodecShape): CodecShape {
  return { headDim, stages: stages.slice(0, base) };
}

/** Stages that only some tokens are coded in. */
export function moreStages({ stages, base = stages.length }: CodecShape): number {
  return stages.length - base;
}

/** Every stored code of a token and head, in order. Throws `RangeError` for groups that do not cut the head evenly. */
export function fields(shape: CodecShape): Field[] {
  const out: Field[] = [], pairs = shape.headDim / 2;
  let word = 0, row = 0;
  shape.stages.forEach((stage, index) => {
    const width = stage.kind === "pair" ? pairs : stage.pairs, bits = stage.kind === "pair" ? 12 : 8;
    if (!Number.isInteger(pairs / width)) {
      throw new RangeError(`Cannot cut ${pairs} pairs into groups of ${width}: choose a divisor`);
    }
    for (let group = 0; group < pairs / width; group++) {
      out.push({ stage: index, group, bits, word, row, pair: group * width, pairs: width });
      word += bits;
    }
    row += stageRows(stage);
  });
  return out;
}

/** Bits of the codes that every token and head has: the words of a block of 32 tokens. */
export function codeBits(shape: CodecShape): number {
  return fieldBits(baseOf(shape));
}

/** Bits of the further codes of a token and head that has some, and of its gain: the words of a block of 32 such tokens. */
export function moreBits(shape: CodecShape): number {
  return moreStages(shape) > 0 ? fieldBits(shape) - codeBits(shape) + GAIN_BITS : 0;
}

/** Further codes of a token that has some, in order, and last its gain, at their places in a block of 32 such tokens. */
export function moreFields(shape: CodecShape): Field<12 | 8 | typeof GAIN_BITS>[] {
  const { stages, base = stages.length } = shape, ofAll = codeBits(shape);
  const further = fields(shape).filter(({ stage }) => stage >= base);
  if (further.length === 0) return [];
  const gain = { stage: stages.length, group: 0, bits: GAIN_BITS, row: 0, pair: 0, pairs: 0 } as const;
  return [...further, { ...gain, word: fieldBits(shape) }].map((field) => ({ ...field, word: field.word - ofAll }));
}

/** Numbers that a search finds for a token and head: its codes, and its gain where there are two tiers. */
export function rawCount(shape: CodecShape): number {
  return fields(shape).length + (moreStages(shape) > 0 ? 1 : 0);
}

/**
 * The squared length that further stages code at a gain of 1, over the mean of the first's words: words of R bits a channel
 * take `1 - 4^-R` of a residual's energy (the rate-distortion bound of a Gaussian). Trained ones take a little less; how
 * much was measured best on keys of held-out text.
 */
export function gainUnit({ headDim, stages, base = stages.length }: CodecShape): number {
  const rate = fieldBits({ headDim, stages: stages.slice(base, base + 1) }) / headDim;
  return rate > 0 ? 1.15 / (1 - 4 ** -rate) : 1;
}

/** What a token's further stages are multiplied by: half a power of two, so that energies are powers of two apart. */
export function gainOf(code: number): number {
  return 2 ** (code >> 1) * (code % 2 === 1 ? Math.SQRT2 : 1);
}

/** Bits of all stages' codes. */
export function fieldBits(shape: CodecShape): number {
  return fields(shape).reduce((sum, field) => sum + field.bits, 0);
}
