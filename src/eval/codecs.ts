/**
 * Codecs as evaluation applies them to the keys and values of a pass.
 *
 * @module
 */
import { Rng } from "../core/rng.ts";
import type { CacheRounding } from "../core/rounding.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { CacheRound } from "../kernels/cache_round.ts";
import type { CacheCodec } from "./forward.ts";
import { readNumbers, writeNumbers } from "./numbers.ts";

/** Axes of the numbers that a function on the CPU is given, `[K][T][D]`. */
export interface CacheDims {
  /** T. */
  readonly tokens: number;
  /** K. */
  readonly kvHeads: number;
  /** D. */
  readonly headDim: number;
}

/** Replaces numbers `[K][T][D]` of a layer by their quantized version, in place. */
export type Quantize = (x: Float32Array, dims: CacheDims, layer: number) => void;

/** A codec of keys after RoPE and of values by kernels. */
export async function roundingCodec(
  gpu: Gpu,
  headDim: number,
  { keys, values }: { keys: CacheRounding; values: CacheRounding },
): Promise<CacheCodec> {
  const ofKeys = await CacheRound.create(gpu, headDim, keys), ofValues = await CacheRound.create(gpu, headDim, values);
  return {
    quantize(_layer, exact, left) {
      const commands = gpu.commands("round");
      ofKeys.encode(commands, { source: exact.keys, rounded: left.keys });
      ofValues.encode(commands, { source: exact.values, rounded: left.values });
      commands.submit();
      return Promise.resolve();
    },
  };
}

/** A codec of keys after RoPE and of values by functions on the CPU. */
export function functionCodec(gpu: Gpu, functions: { keys: Quantize; values: Quantize }): CacheCodec {
  return {
    async quantize(layer, exact, left) {
      const [kvHeads, tokens, words] = exact.keys.shape as readonly [number, number, number];
      for (const side of ["keys", "values"] as const) {
        const numbers = await readNumbers(gpu, exact[side]);
        functions[side](numbers, { kvHeads, tokens, headDim: 2 * words }, layer);
        writeNumbers(gpu, left[side], numbers);
      }
    },
  };
}

/** A function of keys before RoPE, given keys after it. `frequencies` are in radians a position, `[P]`. */
export function beforeRope(frequencies: Float64Array, quantize: Quantize): Quantize {
  return (x, dims, layer) => {
    rotate(x, dims, frequencies, -1);
    quantize(x, dims, layer);
    rotate(x, dims, frequencies, 1);
  };
}

/** Turns keys `[K][T][D]` by their positions, on (`sense` 1) or back (-1). */
export function rotate(
  x: Float32Array,
  { tokens, headDim }: CacheDims,
  frequencies: Float64Array,
  sense: 1 | -1,
): void {
  const pairs = headDim / 2, turns = new Float64Array(headDim);
  for (let t = 0; t < tokens; t++) {
    for (let d = 0; d < pairs; d++) {
      turns[d] = Math.cos(t * frequencies[d]!);
      turns[pairs + d] = sense * Math.sin(t * frequencies[d]!);
    }
    for (let at = t * headDim; at < x.length; at += tokens * headDim) {
      for (let d = 0; d < pairs; d++) {
        const re = x[at + d]!, im = x[at + pairs + d]!, c = turns[d]!, s = turns[pairs + d]!;
        x[at + d] = re * c - im * s;
        x[at + pairs + d] = re * s + im * c;
      }
    }
  }
}

/**
 * Normal noise in place of a codec's error, of the same size channel by channel: an error with structure should do less
 * harm than this one.
 */
export function noiseOf(gpu: Gpu, codec: CacheCodec, seed = 0): CacheCodec {
  return {
    async quantize(layer, exact, left) {
      await codec.quantize(layer, exact, left);
      const [kvHeads, tokens, words] = exact.keys.shape as readonly [number, number, number], headDim = 2 * words;
      const rng = new Rng(seed + layer), sizes = new Float64Array(headDim);
      for (const side of ["keys", "values"] as const) {
        const numbers = await readNumbers(gpu, exact[side]), quantized = await readNumbers(gpu, left[side]);
        for (let k = 0; k < kvHeads; k++) {
          const from = k * tokens * headDim, to = from + tokens * headDim;
          sizes.fill(0);
          for (let i = from; i < to; i++) sizes[i % headDim]! += (quantized[i]! - numbers[i]!) ** 2 / tokens;
          for (let i = from; i < to; i++) numbers[i]! += Math.sqrt(sizes[i % headDim]!) * rng.normal();
        }
        writeNumbers(gpu, left[side], numbers);
      }
    },
  };
}
