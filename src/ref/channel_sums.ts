import { exact, type Round } from "./round.ts";

/** Twin of `wgsl/channel_sums.wgsl` in f64; `round = Math.fround` gives the naive f32 version. */
export function channelSumsRef(
  values: Float32Array,
  features: number,
  chunk: number,
  round: Round = exact,
): Float64Array {
  const rows = values.length / features, out = new Float64Array(Math.ceil(rows / chunk) * features * 4);
  for (let row = 0; row < rows; row++) {
    for (let f = 0; f < features; f++) {
      const x = values[row * features + f]!, at = 4 * (Math.floor(row / chunk) * features + f);
      out[at] = round(out[at]! + Math.abs(x));
      out[at + 1] = round(out[at + 1]! + x);
      out[at + 2] = round(out[at + 2]! + round(x * x));
    }
  }
  return out;
}
