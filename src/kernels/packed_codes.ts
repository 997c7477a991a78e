/**
 * What kernels over packed codes share: how a codec is told to them, and how its table is laid over lanes.
 *
 * @module
 */
import { codeBits, type CodecShape, fields, moreBits, moreStages, tableRows } from "../core/codec.ts";
import { BLOCK, indexWord } from "../core/pack.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { expectHeadDim, stageConstants } from "./stage.ts";

const PAIR = 0x80000000;

/**
 * What `parts/octet.wgsl` reads of a codec, `u32 [S][P/4][2]`: for each stage and quad (four neighbouring pairs) the first
 * word in a block of the field over it, marked if the stage is of pairs, and the stage's first row.
 */
export function codeQuads(codec: CodecShape): Uint32Array {
  const quads = codec.headDim / 8, out = new Uint32Array(codec.stages.length * quads * 2);
  const { stages, base = stages.length } = codec, ofAll = codeBits(codec);
  for (const { stage, bits, word, row, pair, pairs } of fields(codec)) {
    const at = stage < base ? word : word - ofAll;
    for (let quad = pair / 4; quad < (pair + pairs) / 4; quad++) {
      out.set([at + (bits === 12 ? PAIR : 0), row], 2 * (stage * quads + quad));
    }
  }
  return out;
}

/** Constants that compile a kernel over a codec's codes. Throws `RangeError` for codecs that kernels do not serve. */
export function codeConstants(
  codec: CodecShape,
): Record<"HEAD_DIM" | "STAGES" | "MORE" | "ROWS" | "BITS" | "MORE_BITS", number> {
  expectHeadDim(codec.headDim);
  const MORE = moreStages(codec), STAGES = codec.stages.length - MORE;
  if (STAGES === 0) throw new RangeError("Cannot read codes as their codec has no stages");
  for (const stage of codec.stages) stageConstants(codec.headDim, stage);
  const BITS = codeBits(codec), MORE_BITS = moreBits(codec);
  return { HEAD_DIM: codec.headDim, STAGES, MORE, ROWS: tableRows(codec), BITS, MORE_BITS };
}

/** Throws unless further codes come with a codec that has tiers, and hold the index of `codeBlocks`. */
export function expectMore(codec: CodecShape, kvHeads: number, codeBlocks: number, more: Tensor | undefined): void {
  if ((more === undefined) !== (moreStages(codec) === 0)) {
    throw new TypeError("Cannot read codes as only those of a codec with tiers come with further codes, and always do");
  }
  const least = indexWord(kvHeads, codeBlocks, 0);
  if (more && more.shape[0]! < least) {
    throw new RangeError(`Cannot read further codes as their index takes ${least} words: there are ${more.shape[0]}`);
  }
}

/** Room for further codes that begin with `starts` (core/pack.ts). */
export function allocMore(gpu: Gpu, starts: Uint32Array): Tensor {
  const more = gpu.alloc("further codes", "u32", [starts.at(-1)!]);
  gpu.device.pushErrorScope("validation"); // where the memory was refused, that is what is told
  gpu.write(more, starts);
  gpu.watch("begin further codes");
  return more;
}

/** Axes of attention to one stream of codes. */
export interface CodesDims {
  readonly qHeads: number;
  readonly kvHeads: number;
  readonly codec: CodecShape;
}

/** What choices ask of a device. */
export interface CodesDevice {
  readonly limits: Pick<GPUSupportedLimits, "maxComputeInvocationsPerWorkgroup" | "maxComputeWorkgroupStorageSize">;
  readonly f16: boolean;
  readonly subgroups: boolean;
  /** Whether it is a CPU that stands in for a GPU. */
  readonly isFallback: boolean;
}

/** How words are stored and added up: `words_f16` adds in half precision, the others in f32. */
export type WordsPart = "words_half" | "words_f16" | "words_f32";

/** Query heads that a lane takes at once. */
export type ChunkHeads = 1 | 2 | 4;

/** Query heads of a key/value head that a lane takes at once: all, up to four. */
export function chooseHeads({ qHeads, kvHeads }: Omit<CodesDims, "codec">): ChunkHeads {
  const group = qHeads / kvHeads;
  return group === 1 ? 1 : group === 2 ? 2 : 4;
}

/** Chunks of `heads` query heads, over all key/value heads. */
export function headChunks({ qHeads, kvHeads }: Omit<CodesDims, "codec">, heads: number): number {
  return kvHeads * Math.ceil(qHeads / kvHeads / heads);
}

/** How rows of a table are laid over lanes and workgroups, four pairs a lane. */
export interface TableLayout {
  /** Query heads that a lane takes at once. */
  readonly heads: ChunkHeads;
  /** Lanes per workgroup. */
  readonly lanes: number;
  /** Lanes per token, a power of two from 8: at least the quads of a row. */
  readonly tokenLanes: number;
  readonly words: WordsPart;
  /** Workgroups to aim at. */
  readonly workgroups: number;
}

/** Workgroups that fill a large GPU, one a processor: each keeps what it reads of a table in cache and lives long. */
const WORKGROUPS = 128;
/** Lanes of a workgroup on a CPU, which runs them in turn: with 512, a step at a short context takes three times as long. */
const FALLBACK_LANES = 64;
/** Workgroups there. */
const FALLBACK_WORKGROUPS = 8;
/** With tiers, whose heads differ in their work, two a processor: light heads' fill what heavy ones', begun first, leave. */
const TIER_WORKGROUPS = 256;

/**
 * Lays a table over lanes, a whole row over those of a token: slices of rows or stages that would fit a cache better were
 * slower or no faster on an H100 and an H200. Workgroup memory is `laneBytes` a lane and query head, and where the codec
 * has tiers the tokens of eight ranks for every group of a token's lanes, of which there are `leastGroups` or more. Pure.
 */
export function chooseTableLayout(
  { qHeads, kvHeads, codec }: CodesDims,
  device: CodesDevice,
  laneBytes: number,
  leastGroups: number,
): TableLayout {
  const { limits, f16, subgroups, isFallback } = device, heads = chooseHeads({ qHeads, kvHeads });
  let tokenLanes = 8;
  while (tokenLanes < Math.min(codec.headDim / 8, 32)) tokenLanes *= 2;
  const least = leastGroups * tokenLanes;
  let lanes = Math.max(least, isFallback ? FALLBACK_LANES : subgroups ? 512 : 128);
  const { maxComputeInvocationsPerWorkgroup: mostLanes, maxComputeWorkgroupStorageSize: bytes } = limits;
  const listBytes = codec.base === undefined ? 0 : 4 * 8 / tokenLanes, bytesALane = heads * laneBytes + listBytes;
  while (lanes > mostLanes || lanes * bytesALane > bytes) lanes /= 2;
  if (lanes < least) {
    throw new RangeError(
      `Cannot attend to codes as a workgroup has at most ${mostLanes} lanes and ${bytes} bytes: ${least} and ` +
        `${least * bytesALane} are needed`,
    );
  }
  const words = f16 ? "words_f16" : "words_half";
  const onGpu = codec.base === undefined ? WORKGROUPS : TIER_WORKGROUPS;
  return { heads, lanes, tokenLanes, words, workgroups: isFallback ? FALLBACK_WORKGROUPS : onGpu };
}

/** Constants of a layout. */
export function layoutConstants(
  { qHeads, kvHeads }: Omit<CodesDims, "codec">,
  { heads, words, lanes, tokenLanes }: TableLayout,
): { HEADS_PART: string; WORDS: string; WG: number; TOKEN_LANES: number; GROUP: number; CHUNKS: number } {
  const GROUP = qHeads / kvHeads, CHUNKS = Math.ceil(GROUP / heads);
  return { HEADS_PART: `heads_${heads}`, WORDS: words, WG: lanes, TOKEN_LANES: tokenLanes, GROUP, CHUNKS };
}

/** Splits of `units` of work that give about `workgroups` over `rows` rows of a grid, none of them empty by plan. */
export function splitsOf(workgroups: number, rows: number, units: number): number {
  return Math.max(1, Math.min(Math.floor(workgroups / rows), Math.ceil(units)));
}

/** Throws `RangeError` unless tokens start at a block, are there, and fit the scores. */
export function expectTokens(
  action: string,
  { first, tokens, codeBlocks, capacity }: { first: number; tokens: number; codeBlocks: number; capacity: number },
): void {
  if (first % BLOCK === 0 && first + tokens <= codeBlocks * BLOCK && tokens <= capacity && capacity % 8 === 0) return;
  throw new RangeError(
    `Cannot ${action} tokens ${first} to ${first + tokens - 1} as they must begin at a block of ${BLOCK}, there are ` +
      `${codeBlocks} blocks, and the scores have room for ${capacity} (in eights)`,
  );
}
