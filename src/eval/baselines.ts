/**
 * Published cache codecs that compressed caches are compared with and that need no calibration.
 *
 * @module
 */
import type { CacheRounding } from "../core/rounding.ts";

/** One codec: what it does to keys, which it sees after RoPE, and to values. */
export interface Baseline {
  readonly name: string;
  /** What stands behind the name, for reports. */
  readonly about: string;
  /** Codes and scales, in bits an element, for heads of dimension `headDim`. */
  bits(headDim: number): number;
  readonly keys: CacheRounding;
  readonly values: CacheRounding;
}

const blocks = (codec: "q8_0" | "q4_0", bits: number, hadamard: boolean): Baseline => ({
  name: hadamard ? `${codec}+hadamard` : codec,
  about: `llama.cpp's ${codec}${hadamard ? " with its Hadamard rotation of each head" : ""}: blocks of 32 channels`,
  bits: () => bits,
  keys: { codec, hadamard },
  values: { codec, hadamard },
});

const kivi = (bits: number): Baseline => ({
  name: `kivi${bits}`,
  about: "KIVI: keys by channel in groups of 32 tokens, values by token in groups of 32 channels, f16 scale and zero",
  bits: () => bits + 1,
  keys: { codec: "range over tokens", levels: 2 ** bits },
  values: { codec: "range", levels: 2 ** bits },
});

const turbo = (bits: 1 | 2): Baseline => ({
  name: `turbo${bits}`,
  about: "TurboQuant-mse: random signs and Hadamard of each head, f16 norm, Lloyd-Max levels",
  bits: (headDim) => bits + 16 / headDim,
  keys: { codec: "lloyd", levels: 2 ** bits },
  values: { codec: "lloyd", levels: 2 ** bits },
});

/** Every codec that needs no calibration, by the names of the published figures, from many bits to few. */
export const BASELINES: readonly Baseline[] = [
  blocks("q8_0", 8.5, false),
  blocks("q8_0", 8.5, true),
  kivi(4),
  blocks("q4_0", 4.5, false),
  blocks("q4_0", 4.5, true),
  kivi(2),
  turbo(2),
  kivi(1),
  turbo(1),
];
