/** Packed streams for the benches over codes: the shape of an 8B LLaMA, one layer. */
import { codeBits, type CodecShape, pairStages, type Stage } from "../src/core/codec.ts";
import { toF16Array } from "../src/core/f16.ts";
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
  readonly copies: readonly { readonly codes: Tensor; readonly scales: Tensor }[];
  /** Bytes of codes and scales of one copy. */
  readonly bytes: number;
}

/** A stream of `tokens` random codes; `share` of the bytes to rotate are its. */
export function stream(codec: CodecShape, tokens: number, share = 1): Stream {
  const { kvHeads } = HEADS, codeBlocks = tokens / 32, shapes = codeShapes({ codec, kvHeads, codeBlocks });
  const bytes = tokens * (kvHeads * codeBits(codec) / 8 + 2), owned = new DisposableStack();
  const count = Math.ceil((software ? 2 ** 20 : ROTATE_BYTES) * share / bytes);
  const scaleBits = toF16Array(new Float32Array(tokens).fill(0.03));
  return {
    table: owned.use(random(gpu, "table", "u32", shapes.table)),
    quads: owned.use(gpu.upload("quads", "u32", shapes.quads, codeQuads(codec))),
    copies: Array.from({ length: count }, () => ({
      codes: owned.use(noisy("codes", shapes.codes)),
      scales: owned.use(gpu.upload("scales", "f16", shapes.scales, scaleBits)),
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
