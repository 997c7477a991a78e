/** Sample packed streams for the kernels over codes. */
import {
  baseOf,
  type CodecShape,
  fields,
  moreFields,
  pairStages,
  rawCount,
  type Stage,
  tableRows,
} from "../../src/core/codec.ts";
import { fromF16, fromF16Array, toF16, toF16Array } from "../../src/core/f16.ts";
import { BLOCK, blocks, packCodes, putCode } from "../../src/core/pack.ts";
import { Rng } from "../../src/core/rng.ts";
import { ropeTable } from "../../src/core/rope_table.ts";
import { codeShapes } from "../../src/core/shapes.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import type { Tensor } from "../../src/gpu/tensor.ts";
import { codeQuads, type CodesDevice } from "../../src/kernels/packed_codes.ts";
import type { PackedNumbers } from "../../src/ref/code_decode.ts";
import { codeTierRef, rankBlock } from "../../src/ref/code_tier.ts";

/** Pair stages `p`, and sub stages by their pairs. */
export function codec(headDim: number, ...stages: ("p" | number)[]): CodecShape {
  return {
    headDim,
    stages: stages.map((s): Stage => s === "p" ? { kind: "pair", tied: false } : { kind: "sub", pairs: s }),
  };
}

/** `count` pair stages. */
export function pairs(headDim: number, count: number): CodecShape {
  return pairStages(headDim, count, false);
}

/** A codec whose first `base` stages are of all tokens and whose others are of some. */
export function tiered(codec: CodecShape, base: number): CodecShape {
  return { ...codec, base };
}

/** How words and codes fall. */
export interface CodesSample {
  /** Words lie on a grid on which half precision adds exactly. */
  readonly isOnGrid?: boolean;
  /** Few words get most codes. */
  readonly isSkewed?: boolean;
  /** Share of the tokens that have further codes, where the codec has tiers. */
  readonly share?: number;
}

/** A packed stream as numbers, and as half-precision bits; a few channels are twenty times as large as the rest. */
export interface PackedSample extends PackedNumbers {
  readonly tableBits: Uint16Array;
  readonly scaleBits: Uint16Array;
}

/** A sample stream. Codes past the last token are random too, for nothing may come of them. */
export function packedSample(
  codec: CodecShape,
  kvHeads: number,
  tokens: number,
  seed: number,
  { isOnGrid = true, isSkewed = false, share = 0.3 }: CodesSample = {},
): PackedSample {
  const rng = new Rng(seed), rows = tableRows(codec), list = fields(codec), padded = blocks(tokens) * BLOCK;
  const lookups = codec.stages.reduce((sum, { kind }) => sum + (kind === "pair" ? 2 : 1), 0);
  const most = Math.floor(2048 / lookups),
    column = Float64Array.from({ length: codec.headDim }, () => 2 ** -rng.below(6));
  const size = (i: number) => column[i % codec.headDim]!, grid = 1 / 256;
  const number = (i: number): number => {
    const x = rng.normal() / Math.sqrt(lookups);
    if (!isOnGrid) return x * size(i);
    return Math.max(-most, Math.min(most, Math.round(x / grid))) * grid * size(i);
  };
  const tableBits = Uint16Array.from({ length: kvHeads * rows * codec.headDim }, (_, i) => toF16(number(i)));
  const drawn = Uint16Array.from({ length: padded * kvHeads * list.length }, (_, i) => {
    const range = 2 ** list[i % list.length]!.bits;
    return isSkewed ? Math.floor(range * rng.uniform() ** 6) : rng.below(range);
  });
  const scaleBits = toF16Array(Float32Array.from({ length: padded }, () => 0.2 + 2 * rng.uniform()));
  const whole = { codec, kvHeads, tableBits, scaleBits };
  return {
    ...whole,
    words: Float64Array.from(tableBits, fromF16),
    codes: packCodes({ ...codec, base: undefined }, kvHeads, drawn),
    scales: Float64Array.from(fromF16Array(scaleBits)),
    ...codec.base !== undefined && tieredCodes(codec, kvHeads, drawn, share, rng),
  };
}

/**
 * `drawn [T][K][fields]` as codes of the first stages, and further codes of about a share of the tokens, each head's at
 * ranks of its own. Places without a token hold random codes.
 */
function tieredCodes(codec: CodecShape, kvHeads: number, drawn: Uint16Array, share: number, rng: Rng) {
  const count = fields(codec).length, few = fields(baseOf(codec)).length, tokens = drawn.length / count / kvHeads;
  const found = rawCount(codec); // the codes, and a gain
  const codeBlocks = tokens / BLOCK, first = drawn.filter((_, i) => i % count < few);
  const missed = Array.from({ length: kvHeads * tokens }, () => rng.uniform() < share);
  const least = blocks(Math.max(1, share * tokens + 2 * Math.sqrt(tokens))) * BLOCK;
  const rooms = Array.from({ length: kvHeads }, (_, k) => least + k % 2 * BLOCK);
  const all = Uint16Array.from({ length: tokens * kvHeads * found }, (_, i) => {
    const f = i % found, t = Math.floor(i / found) % tokens, k = Math.floor(i / found / tokens);
    return f < count ? drawn[(t * kvHeads + k) * count + f]! : rng.below(6);
  });
  const { more, held } = codeTierRef(codec, kvHeads, missed, all, { codeBlocks, rooms });
  for (let k = 0; k < kvHeads; k++) {
    for (let rank = held.filter((holds, i) => holds && Math.floor(i / tokens) === k).length; rank < rooms[k]!; rank++) {
      const block = rankBlock(codec, more, k, rank);
      for (const { word, bits } of moreFields(codec)) {
        putCode(more, block + word, bits, rank & 31, rng.below(2 ** bits));
      }
    }
  }
  return { codes: packCodes(codec, kvHeads, first), more };
}

/** A packed stream on the GPU. */
export function uploadPacked(
  gpu: Gpu,
  { codec, kvHeads, codes, more, tableBits, scaleBits }: PackedSample,
): Record<"table" | "codes" | "quads" | "scales", Tensor> & { more?: Tensor } {
  const shapes = codeShapes({ codec, kvHeads, codeBlocks: scaleBits.length / BLOCK });
  return {
    table: gpu.upload("table", "u32", shapes.table, tableBits),
    codes: gpu.upload("codes", "u32", shapes.codes, codes),
    quads: gpu.upload("quads", "u32", shapes.quads, codeQuads(codec)),
    scales: gpu.upload("scales", "f16", shapes.scales, scaleBits),
    ...more && { more: gpu.upload("more", "u32", [more.length], more) },
  };
}

/** LLaMA 3's frequencies, and their table on the GPU. */
export function rope(gpu: Gpu, headDim: number, context: number): { frequencies: Float64Array; ropeTable: Tensor } {
  const pairs = headDim / 2, frequencies = Float64Array.from({ length: pairs }, (_, d) => 5e5 ** (-d / pairs));
  const table = ropeTable(frequencies, context);
  return { frequencies, ropeTable: gpu.upload("rope", "f32", [table.length / pairs / 2, pairs, 2], table) };
}

/** What choices ask of a device, as a GPU of its limits would answer: so that CI runs what GPUs do. */
export function asGpu({ limits, f16, subgroups }: CodesDevice): CodesDevice {
  return { limits, f16, subgroups, isFallback: false };
}

/** Rounds a number to half precision. */
export function toHalf(x: number): number {
  return fromF16(toF16(x));
}
