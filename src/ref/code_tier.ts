import { baseOf, type CodecShape, fields, moreWords } from "../core/codec.ts";
import { BLOCK, moreSize } from "../core/pack.ts";
import type { EmDims } from "../core/shapes.ts";
import { residualAt } from "./code_residual.ts";

/** The errors that `wgsl/code_tier.wgsl` compares, in f64: `[K][T]` squared lengths of residuals times scales. */
export function tokenErrorsRef(
  residual: ArrayLike<number>,
  scales: ArrayLike<number>,
  { heads, headDim, tokens }: Omit<EmDims, "stage">,
  capacity = tokens,
): Float64Array {
  const out = new Float64Array(heads * tokens);
  for (let head = 0; head < heads; head++) {
    for (let t = 0; t < tokens; t++) {
      let sum = 0;
      for (let c = 0; c < headDim; c++) sum += residual[residualAt(headDim, capacity, head, t, c)]! ** 2;
      out[head * tokens + t] = sum * scales[t]! ** 2;
    }
  }
  return out;
}

/**
 * Twin of `wgsl/code_tier.wgsl`: `more` for tokens `[K][T]` of which some are `missed`, and codes `all [K][T][fields]`, from
 * block 0 on; and whose further codes there was room for, `[K][T]`.
 */
export function codeTierRef(
  codec: CodecShape,
  heads: number,
  missed: readonly boolean[],
  all: ArrayLike<number>,
  { codeBlocks, room }: { codeBlocks: number; room: number },
): { more: Uint32Array; held: boolean[] } {
  const list = fields(codec), few = fields(baseOf(codec)).length, tokens = missed.length / heads;
  const more = new Uint32Array(moreSize(codec, heads, codeBlocks, room)),
    words = moreWords(codec),
    held: boolean[] = [];
  for (let k = 0; k < heads; k++) {
    let count = 0;
    for (let t = 0; t < tokens; t++) {
      const index = 2 * ((t >>> 5) * heads + k);
      if (t % BLOCK === 0) more[index + 1] = count;
      const holds = missed[k * tokens + t]! && count < room;
      held.push(holds);
      if (!holds) continue;
      more[index]! |= 1 << (t & 31);
      const at = 2 * codeBlocks * heads + (k * room + count) * words;
      let bit = 0;
      for (let f = few; f < list.length; f++) {
        for (let b = 0; b < list[f]!.bits; b++, bit++) {
          more[at + (bit >>> 5)]! |= (all[(k * tokens + t) * list.length + f]! >>> b & 1) << (bit & 31);
        }
      }
      count++;
    }
  }
  return { more, held };
}

/** The further codes of token `t` of head `k`, by field from the first on that not all tokens have; none if it has none. */
export function furtherCodes(
  codec: CodecShape,
  heads: number,
  more: Uint32Array,
  { codeBlocks, room }: { codeBlocks: number; room: number },
  k: number,
  t: number,
): number[] {
  const index = 2 * ((t >>> 5) * heads + k), mask = more[index]!;
  if ((mask >>> (t & 31) & 1) === 0) return [];
  let entry = more[index + 1]!, bit = 0;
  for (let b = 0; b < (t & 31); b++) entry += mask >>> b & 1;
  const at = 2 * codeBlocks * heads + (k * room + entry) * moreWords(codec);
  return fields(codec).slice(fields(baseOf(codec)).length).map(({ bits }) => {
    let code = 0;
    for (let b = 0; b < bits; b++, bit++) code |= (more[at + (bit >>> 5)]! >>> (bit & 31) & 1) << b;
    return code;
  });
}
