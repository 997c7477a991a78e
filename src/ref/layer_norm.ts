import { random4 } from "./random.ts";
import { exact, type Round } from "./round.ts";

type Numbers = Float32Array | Float64Array;

/** The rows that `wgsl/layer_norm.wgsl` draws for a batch. */
export function drawnRows(rows: number, tokens: number, seed: number, step: number): number[] {
  return Array.from({ length: tokens }, (_, t) => random4([t, step, seed, 0])[0]! % rows);
}

/** Twin of `wgsl/layer_norm.wgsl` for one layer, given its rows; `round = Math.fround` gives the naive f32 version. */
export function layerNormRef(
  values: Numbers,
  scale: Numbers,
  rows: readonly number[],
  weight: number,
  round: Round = exact,
): { normed: Float64Array; stats: Float64Array } {
  const features = scale.length, normed = new Float64Array(rows.length * features);
  const stats = new Float64Array(rows.length * 4);
  rows.forEach((row, t) => {
    const y = Float64Array.from(scale, (s, f) => round(values[row * features + f]! / s));
    let square = 0, sum = 0, spread = 0;
    for (const x of y) [square, sum] = [round(square + round(x * x)), round(sum + x)];
    const p = round(round(Math.sqrt(square)) + 1e-6), mean = round(sum / round(p * features));
    for (const x of y) spread = round(spread + round(round(round(x / p) - mean) ** 2));
    const deviation = round(Math.sqrt(round(round(spread / features) + 1e-5)));
    y.forEach((x, f) => normed[t * features + f] = round(round(round(x / p) - mean) / deviation));
    stats.set([p, mean, deviation, weight], 4 * t);
  });
  return { normed, stats };
}
