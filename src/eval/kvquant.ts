/**
 * KVQuant-nuq2 without outliers ("dense"; arXiv 2401.18079): four levels a layer, placed by k-means, for keys before RoPE
 * in each channel's range and for values in each token's. Its k-means is weighted by Fisher information, which needs
 * gradients; here every number weighs the same.
 *
 * @module
 */
import { fromF16, toF16 } from "../core/f16.ts";
import { beforeRope, type CacheDims, functionCodec, rotate } from "./codecs.ts";
import type { CacheCodec, Forward } from "./forward.ts";
import { readNumbers } from "./numbers.ts";

const LEVELS = 4, BINS = 4096;
const half = (x: number): number => fromF16(toF16(x));

/** What calibration fixes for a layer. */
export interface KvQuantLayer {
  /** Middle and half width of each key channel's range, `[K·D]`. */
  readonly middle: Float32Array;
  readonly reach: Float32Array;
  readonly keys: Levels;
  readonly values: Levels;
}

/** Levels in [-1, 1]: a number goes to the nearest of `centres`, and comes back as that one of `levels`. */
export interface Levels {
  readonly centres: readonly number[];
  readonly levels: readonly number[];
}

/**
 * Places levels in a histogram of [-1, 1] by one-dimensional k-means; what comes back is scaled so that its mean and
 * deviation are those of what went in (the paper's Q-Norm).
 */
export function placeLevels(histogram: Float64Array): Levels {
  const at = (bin: number): number => (2 * bin + 1) / histogram.length - 1;
  const total = histogram.reduce((a, b) => a + b, 0);
  let centres: number[] = [], seen = 0;
  histogram.forEach((count, bin) => { // begin at quantiles
    while (centres.length < LEVELS && seen + count >= (centres.length + 0.5) / LEVELS * total) centres.push(at(bin));
    seen += count;
  });
  for (let round = 0; round < 200; round++) {
    const sums = new Float64Array(LEVELS), counts = new Float64Array(LEVELS);
    histogram.forEach((count, bin) => {
      const i = nearest(centres, at(bin));
      sums[i]! += count * at(bin);
      counts[i]! += count;
    });
    const moved = centres.map((c, i) => counts[i]! > 0 ? sums[i]! / counts[i]! : c);
    if (moved.every((c, i) => Math.abs(c - centres[i]!) < 1e-9)) break;
    centres = moved;
  }
  const moments = (value: (bin: number) => number): [number, number] => {
    let mean = 0, square = 0;
    histogram.forEach((count, bin) => {
      mean += count * value(bin) / total;
      square += count * value(bin) ** 2 / total;
    });
    return [mean, Math.sqrt(Math.max(0, square - mean * mean))];
  };
  const [mean, deviation] = moments(at), [ownMean, own] = moments((bin) => centres[nearest(centres, at(bin))]!);
  return { centres, levels: centres.map((c) => own > 0 ? mean + (c - ownMean) * deviation / own : c) };
}

function nearest(centres: readonly number[], x: number): number {
  let best = 0;
  for (let i = 1; i < centres.length; i++) if (Math.abs(centres[i]! - x) < Math.abs(centres[best]! - x)) best = i;
  return best;
}

const bin = (y: number): number => Math.max(0, Math.min(BINS - 1, Math.floor((y + 1) / 2 * BINS)));

/** Calls `visit` with each token's least and largest number over all heads of `x [K][T][D]`. */
function forTokens(x: Float32Array, dims: CacheDims, visit: (t: number, least: number, most: number) => void): void {
  const { kvHeads, tokens, headDim } = dims;
  for (let t = 0; t < tokens; t++) {
    let least = Infinity, most = -Infinity;
    for (let k = 0; k < kvHeads; k++) {
      const at = (k * tokens + t) * headDim;
      for (let i = at; i < at + headDim; i++) {
        if (x[i]! < least) least = x[i]!;
        if (x[i]! > most) most = x[i]!;
      }
    }
    visit(t, least, most);
  }
}

/** Numbers of token `t` of `x [K][T][D]`, replaced by what `map` makes of each. */
function mapToken(
  x: Float32Array,
  { kvHeads, tokens, headDim }: CacheDims,
  t: number,
  map: (v: number) => number,
): void {
  for (let k = 0; k < kvHeads; k++) {
    const at = (k * tokens + t) * headDim;
    for (let i = at; i < at + headDim; i++) x[i] = map(x[i]!);
  }
}

/** Fixes ranges and levels on texts, whose tokens go through the model exactly, twice: for ranges, then for levels. */
export async function calibrateKvQuant(
  forward: Forward,
  texts: readonly (readonly number[])[],
): Promise<KvQuantLayer[]> {
  const { gpu, config: { layers, kvHeads, headDim }, engine } = forward, { frequencies } = engine.decoder.weights;
  const least = Array.from({ length: layers }, () => new Float32Array(kvHeads * headDim).fill(Infinity));
  const most = Array.from({ length: layers }, () => new Float32Array(kvHeads * headDim).fill(-Infinity));
  const ofKeys = Array.from({ length: layers }, () => new Float64Array(BINS));
  const ofValues = Array.from({ length: layers }, () => new Float64Array(BINS));
  using x = forward.allocRows();
  const pass = async (each: (layer: number, keys: Float32Array, values: Float32Array, dims: CacheDims) => void) => {
    for (const ids of texts) {
      forward.begin(ids);
      const dims = { kvHeads, headDim, tokens: ids.length };
      await forward.run(x, {
        far: "exact",
        visit: async (layer) => {
          const pair = forward.pair(layer), keys = await readNumbers(gpu, pair.keys);
          rotate(keys, dims, frequencies, -1);
          each(layer, keys, await readNumbers(gpu, pair.values), dims);
        },
      });
    }
  };
  const channel = (i: number, { tokens }: CacheDims): number =>
    Math.floor(i / (tokens * headDim)) * headDim + i % headDim;
  await pass((layer, keys, _, dims) => {
    for (let i = 0; i < keys.length; i++) {
      const c = channel(i, dims);
      if (keys[i]! < least[layer]![c]!) least[layer]![c] = keys[i]!;
      if (keys[i]! > most[layer]![c]!) most[layer]![c] = keys[i]!;
    }
  });
  const middle = least.map((low, l) => low.map((v, c) => half((v + most[l]![c]!) / 2)));
  const reach = least.map((low, l) => low.map((v, c) => half((most[l]![c]! - v) / 2) || 1));
  await pass((layer, keys, values, dims) => {
    for (let i = 0; i < keys.length; i++) {
      const c = channel(i, dims);
      ofKeys[layer]![bin((keys[i]! - middle[layer]![c]!) / reach[layer]![c]!)]!++;
    }
    forTokens(values, dims, (t, low, high) => {
      mapToken(values, dims, t, (v) => {
        ofValues[layer]![bin((2 * v - low - high) / (high - low || 1))]!++;
        return v;
      });
    });
  });
  return middle.map((m, l) => ({
    middle: m,
    reach: reach[l]!,
    keys: placeLevels(ofKeys[l]!),
    values: placeLevels(ofValues[l]!),
  }));
}

/** The codec that calibration came to. */
export function kvQuantCodec(forward: Forward, layers: readonly KvQuantLayer[]): CacheCodec {
  const keys = (x: Float32Array, { tokens, headDim }: CacheDims, layer: number): void => {
    const { middle, reach, keys: { centres, levels } } = layers[layer]!;
    for (let i = 0; i < x.length; i++) {
      const c = Math.floor(i / (tokens * headDim)) * headDim + i % headDim;
      x[i] = middle[c]! + reach[c]! * levels[nearest(centres, (x[i]! - middle[c]!) / reach[c]!)]!;
    }
  };
  const values = (x: Float32Array, dims: CacheDims, layer: number): void => {
    const { centres, levels } = layers[layer]!.values;
    forTokens(x, dims, (t, low, high) => {
      const middle = half((low + high) / 2), reach = half((high - low) / 2);
      mapToken(x, dims, t, (v) => middle + reach * levels[reach > 0 ? nearest(centres, (v - middle) / reach) : 0]!);
    });
  };
  const { frequencies } = forward.engine.decoder.weights;
  return functionCodec(forward.gpu, { keys: beforeRope(frequencies, keys), values });
}
