/** Packed streams for the benches over codes: the shape of an 8B LLaMA, one layer. */
import { codeBits, type CodecShape, moreBits, pairStages, type Stage } from "../src/core/codec.ts";
import { toF16Array } from "../src/core/f16.ts";
import { indexWord, moreRoom, moreStarts } from "../src/core/pack.ts";
import { Rng } from "../src/core/rng.ts";
import { ropeTable, ropeTableRows } from "../src/core/rope_table.ts";
import { codeShapes } from "../src/core/shapes.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import type { Shape, Tensor } from "../src/gpu/tensor.ts";
import { codeQuads } from "../src/kernels/packed_codes.ts";
import { random } from "./_attn.ts";
import { bench, ROTATE_BYTES, type Timing } from "./_harness.ts";

export const { gpu, software } = await bench();

/** 32 query heads over 8 key/value heads of 128. */
export const HEADS = software
  ? { qHeads: 4, kvHeads: 1, headDim: 128 } as const
  : { qHeads: 32, kvHeads: 8, headDim: 128 } as const;
export const CONTEXTS: readonly number[] = software ? [512] : [8192, 32768, 131072];
export const LONGEST: number = CONTEXTS.at(-1)!;
export const repetitions: number = software ? 3 : 30;

const stages = (...list: ("p" | number)[]): CodecShape => ({
  headDim: HEADS.headDim,
  stages: list.map((s): Stage => s === "p" ? { kind: "pair", tied: false } : { kind: "sub", pairs: s }),
});

/** Published stages, and mixes of pair and sub stages of the same bits. */
export const CODECS: Readonly<Record<string, CodecShape>> = {
  "11 pair": pairStages(HEADS.headDim, 11, false),
  "p+s8+s16+s32": stages("p", 8, 16, 32),
  "21 pair": pairStages(HEADS.headDim, 21, false),
  "2p+3s8+s16": stages("p", "p", 8, 8, 8, 16),
};

/** A codec, and the shares of each head's tokens that have further codes. */
interface Side {
  readonly codec: CodecShape;
  readonly shares: readonly number[];
}

/** Shares by head, as uneven as their prices make them: of the bundled codebook, 29 % of keys and 33 % of values on average. */
const SHARES = {
  keys: [0, 0.05, 0.1, 0.2, 0.3, 0.45, 0.55, 0.65].slice(-HEADS.kvHeads),
  values: [0.05, 0.1, 0.15, 0.3, 0.35, 0.5, 0.55, 0.65].slice(-HEADS.kvHeads),
};

/** Two tiers, whose first four stages are all tokens'. */
function tiers(keys: CodecShape, values: CodecShape): Record<"keys" | "values", Side> {
  return {
    keys: { codec: { ...keys, base: 4 }, shares: SHARES.keys },
    values: { codec: { ...values, base: 4 }, shares: SHARES.values },
  };
}

/** Keys and values in one tier of each codec, and in two as the bundled codebook's scales to this shape, at 1 bit. */
export const SIDES: Readonly<Record<string, Readonly<Record<"keys" | "values", Side>>>> = {
  ...Object.fromEntries(
    Object.entries(CODECS).map((
      [name, codec],
    ) => [name, { keys: { codec, shares: [] }, values: { codec, shares: [] } }]),
  ),
  tiers: tiers(pairStages(HEADS.headDim, 20, false), stages("p", "p", "p", "p", 8, 8, 8)),
  "tiers of pairs": tiers(pairStages(HEADS.headDim, 20, false), pairStages(HEADS.headDim, 20, false)),
};

const rng = new Rng(3), noise = Uint32Array.from({ length: 2 ** 18 }, () => rng.u32());

function noisy(label: string, shape: Shape): Tensor {
  const tensor = gpu.alloc(label, "u32", shape);
  using seed = gpu.upload("seed", "u32", [noise.length], noise);
  const commands = gpu.commands("fill");
  for (let at = 0; at < tensor.byteLength; at += seed.byteLength) {
    commands.copy(seed, tensor, Math.min(seed.byteLength, tensor.byteLength - at), 0, at);
  }
  commands.submit();
  return tensor;
}

/** A stream's tables, and copies of its codes and scales that together exceed every cache. */
export interface Stream extends Disposable {
  readonly table: Tensor;
  readonly quads: Tensor;
  readonly copies: readonly { readonly codes: Tensor; readonly scales: Tensor; readonly more?: Tensor }[];
  /** Bytes of codes and scales of one copy, of further codes those in use. */
  readonly bytes: number;
}

/** Random further codes of about a share of each head's tokens. */
function further(codec: CodecShape, tokens: number, shares: readonly number[]): Tensor {
  const { kvHeads } = HEADS, codeBlocks = tokens / 32, rooms = shares.map((share) => moreRoom(tokens, share));
  const starts = moreStarts(codec, rooms, codeBlocks);
  const words = Uint32Array.from({ length: starts[kvHeads]! }, () => rng.u32());
  words.set(starts);
  for (let k = 0; k < kvHeads; k++) {
    let count = 0;
    for (let block = 0; block < codeBlocks; block++) {
      let mask = 0, held = 0;
      for (let t = 0; t < 32; t++) if (count + held < rooms[k]! && rng.uniform() < shares[k]!) held++, mask |= 1 << t;
      words.set([mask, count], indexWord(kvHeads, block, k));
      count += held;
    }
  }
  return gpu.upload("more", "u32", [words.length], words);
}

/** A stream of `tokens` random codes; `part` of the bytes to rotate are its, `shares [K]` of its tokens have further codes. */
export function stream(codec: CodecShape, tokens: number, part = 1, shares: readonly number[] = []): Stream {
  const { kvHeads } = HEADS, codeBlocks = tokens / 32, shapes = codeShapes({ codec, kvHeads, codeBlocks });
  const ofTiers = shares.reduce((sum, share) => sum + share * moreBits(codec) / 8 + 0.25, 0);
  const bytes = tokens * (kvHeads * codeBits(codec) / 8 + 2 + ofTiers), owned = new DisposableStack();
  const count = Math.ceil((software ? 2 ** 20 : ROTATE_BYTES) * part / bytes);
  const scaleBits = toF16Array(new Float32Array(tokens).fill(0.03));
  return {
    table: owned.use(random(gpu, "table", "u32", shapes.table)),
    quads: owned.use(gpu.upload("quads", "u32", shapes.quads, codeQuads(codec))),
    copies: Array.from({ length: count }, () => ({
      codes: owned.use(noisy("codes", shapes.codes)),
      scales: owned.use(gpu.upload("scales", "f16", shapes.scales, scaleBits)),
      ...codec.base !== undefined && { more: owned.use(further(codec, tokens, shares)) },
    })),
    bytes,
    [Symbol.dispose]: () => owned.dispose(),
  };
}

/** Rotations of every position that is benched, by LLaMA 3's frequencies. */
export function rope(device: Gpu): Tensor {
  const pairs = HEADS.headDim / 2, frequencies = Float64Array.from({ length: pairs }, (_, d) => 5e5 ** (-d / pairs));
  return device.upload("rope", "f32", [ropeTableRows(LONGEST), pairs, 2], ropeTable(frequencies, LONGEST));
}

/** Queries of one token, scaled. */
export function queries(device: Gpu): Tensor {
  const { qHeads, headDim } = HEADS;
  const numbers = Float32Array.from({ length: qHeads * headDim }, () => rng.normal() / Math.sqrt(headDim));
  return device.upload("q", "f32", [qHeads, headDim], numbers);
}

/** Prints what a token costs. */
export function perToken({ medianUs }: Timing, tokens: number): void {
  const clocks = medianUs * 1e-6 * 132 * 1.98e9 / tokens / HEADS.kvHeads;
  console.log(
    `    ${(medianUs * 1e3 / tokens).toFixed(3)} ns a token; ${
      clocks.toFixed(1)
    } clocks a token and head on each of 132 ` +
      "processors at 1.98 GHz",
  );
}
