/**
 * Published cache codecs that compressed caches are compared with, as what they do to keys and values: each function
 * replaces `x f32 [T][K][D]` by its quantized version, in place. Scales are rounded to f16 and counted in the bits.
 *
 * @module
 */
import { fromF16, toF16 } from "../core/f16.ts";
import { Rng } from "../core/rng.ts";

/** Axes of the numbers that a codec is given. */
export interface CacheDims {
  readonly tokens: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** Replaces numbers by their quantized version, in place. */
export type Quantize = (x: Float32Array, dims: CacheDims) => void;

/** One codec. */
export interface Baseline {
  readonly name: string;
  /** Codes and scales, in bits an element, for a head of dimension `headDim`. */
  bits(headDim: number): number;
  /** What it does to keys, which it sees after RoPE, and to values. */
  readonly keys: Quantize;
  readonly values: Quantize;
}

const half = (x: number): number => fromF16(toF16(x));

/** Nearest whole number, halves to even, as the published codes round. */
function roundEven(x: number): number {
  const below = Math.floor(x), rest = x - below;
  return rest < 0.5 ? below : rest > 0.5 ? below + 1 : below + (below & 1);
}

const clamp = (x: number, least: number, most: number): number => Math.min(most, Math.max(least, x));

/** Blocks of llama.cpp's 32 along the head: `d = amax/127`, 8.5 bits. */
const q8Block = (x: Float32Array, at: number, count: number): void => {
  let most = 0;
  for (let i = 0; i < count; i++) most = Math.max(most, Math.abs(x[at + i]!));
  const scale = most / 127, inverse = scale ? 1 / scale : 0, stored = half(scale);
  for (let i = 0; i < count; i++) x[at + i] = stored * Math.round(x[at + i]! * inverse);
};

/** Blocks of llama.cpp's 32 along the head: the element of largest size becomes -8, 4.5 bits. */
const q4Block = (x: Float32Array, at: number, count: number): void => {
  let most = 0;
  for (let i = 0; i < count; i++) if (Math.abs(x[at + i]!) > Math.abs(most)) most = x[at + i]!;
  const scale = most / -8, inverse = scale ? 1 / scale : 0, stored = half(scale);
  for (let i = 0; i < count; i++) x[at + i] = stored * (Math.min(15, Math.trunc(x[at + i]! * inverse + 8.5)) - 8);
};

const inBlocks = (block: (x: Float32Array, at: number, count: number) => void): Quantize => (x) => {
  for (let at = 0; at < x.length; at += 32) block(x, at, Math.min(32, x.length - at));
};

/** Asymmetric uniform quantization of `count` numbers `stride` apart, with f16 scale and zero. */
function asymmetric(x: Float32Array, at: number, count: number, stride: number, levels: number): void {
  let least = Infinity, most = -Infinity;
  for (let i = 0; i < count; i++) {
    const v = x[at + i * stride]!;
    if (v < least) least = v;
    if (v > most) most = v;
  }
  const zero = half(least), scale = half((most - least) / (levels - 1));
  for (let i = 0; i < count; i++) {
    const v = x[at + i * stride]!;
    x[at + i * stride] = scale > 0 ? scale * clamp(roundEven((v - zero) / scale), 0, levels - 1) + zero : zero;
  }
}

const KIVI_GROUP = 32;

/** KIVI's keys: per channel in groups of 32 tokens; an incomplete last group stays exact. */
const kiviKeys = (levels: number): Quantize => (x, { tokens, kvHeads, headDim }) => {
  const channels = kvHeads * headDim;
  for (let t = 0; t + KIVI_GROUP <= tokens; t += KIVI_GROUP) {
    for (let c = 0; c < channels; c++) asymmetric(x, t * channels + c, KIVI_GROUP, channels, levels);
  }
};

/** KIVI's values: per token in groups of 32 channels. */
const kiviValues = (levels: number): Quantize => (x) => {
  for (let at = 0; at < x.length; at += KIVI_GROUP) asymmetric(x, at, Math.min(KIVI_GROUP, x.length - at), 1, levels);
};

/** The orthonormal Hadamard transform of `n` numbers, a power of two. */
export function hadamard(x: Float32Array, at: number, n: number): void {
  for (let width = 1; width < n; width *= 2) {
    for (let i = 0; i < n; i += 2 * width) {
      for (let j = at + i; j < at + i + width; j++) {
        const a = x[j]!, b = x[j + width]!;
        x[j] = a + b;
        x[j + width] = a - b;
      }
    }
  }
  const norm = 1 / Math.sqrt(n);
  for (let i = at; i < at + n; i++) x[i] = x[i]! * norm;
}

function expectPowerOfTwo(headDim: number): void {
  if (headDim & (headDim - 1)) {
    throw new RangeError(
      `Cannot apply a Hadamard rotation as the head dimension must be a power of two: it is ${headDim}`,
    );
  }
}

/** A codec between a Hadamard rotation of each head and its inverse. */
const rotated = (quantize: Quantize): Quantize => (x, dims) => {
  expectPowerOfTwo(dims.headDim);
  for (let at = 0; at < x.length; at += dims.headDim) hadamard(x, at, dims.headDim);
  quantize(x, dims);
  for (let at = 0; at < x.length; at += dims.headDim) hadamard(x, at, dims.headDim);
};

/** Levels that minimise a normal variable's squared error (Lloyd-Max), the non-negative half. */
const LLOYD_MAX: Record<1 | 2, readonly number[]> = { 1: [0.7978846], 2: [0.4527800, 1.5104176] };

/** Random signs and Hadamard per head, f16 norm, Lloyd-Max levels: TurboQuant's mean-squared-error codec. */
const turbo = (bits: 1 | 2, seed = 0): Quantize => (x, { headDim }) => {
  expectPowerOfTwo(headDim);
  const rng = new Rng(seed), signs = Float32Array.from({ length: headDim }, () => rng.below(2) ? 1 : -1);
  const levels = LLOYD_MAX[bits];
  for (let at = 0; at < x.length; at += headDim) {
    let sum = 0;
    for (let i = 0; i < headDim; i++) sum += x[at + i]! ** 2;
    const norm = half(Math.sqrt(sum)), unit = norm > 0 ? Math.sqrt(headDim) / norm : 0;
    for (let i = 0; i < headDim; i++) x[at + i] = x[at + i]! * signs[i]! * unit;
    hadamard(x, at, headDim);
    for (let i = at; i < at + headDim; i++) {
      const size = Math.abs(x[i]!),
        level = levels.reduce((best, l) => Math.abs(l - size) < Math.abs(best - size) ? l : best);
      x[i] = Math.sign(x[i]!) * level / Math.sqrt(headDim) * norm;
    }
    hadamard(x, at, headDim);
    for (let i = 0; i < headDim; i++) x[at + i] = x[at + i]! * signs[i]!;
  }
};

const exact: Quantize = () => {};

/** Every codec that needs no calibration, by the names of the published figures. */
export const BASELINES: readonly Baseline[] = [
  { name: "fp16", bits: () => 16, keys: exact, values: exact },
  { name: "q8_0", bits: () => 8.5, keys: inBlocks(q8Block), values: inBlocks(q8Block) },
  { name: "q4_0", bits: () => 4.5, keys: inBlocks(q4Block), values: inBlocks(q4Block) },
  { name: "q8_0+hadamard", bits: () => 8.5, keys: rotated(inBlocks(q8Block)), values: rotated(inBlocks(q8Block)) },
  { name: "q4_0+hadamard", bits: () => 4.5, keys: rotated(inBlocks(q4Block)), values: rotated(inBlocks(q4Block)) },
  ...([4, 2, 1] as const).map((bits) => ({
    name: `kivi${bits}`,
    bits: () => bits + 1,
    keys: kiviKeys(2 ** bits),
    values: kiviValues(2 ** bits),
  })),
  ...([2, 1] as const).map((bits) => ({
    name: `turbo${bits}`,
    bits: (headDim: number) => bits + 16 / headDim,
    keys: turbo(bits),
    values: turbo(bits),
  })),
];
