import { exact, type Round } from "./round.ts";

/** Twin of `wgsl/rms_norm.wgsl` in f64; `round = Math.fround` gives the naive f32 version. */
export function rmsNormRef(x: Float32Array, gain: Float32Array, eps: number, round: Round = exact): Float64Array {
  const hidden = gain.length, out = new Float64Array(x.length);
  for (let first = 0; first < x.length; first += hidden) {
    let square = 0;
    for (let i = first; i < first + hidden; i++) square = round(square + round(x[i]! * x[i]!));
    const scale = round(1 / round(Math.sqrt(round(round(square / hidden) + eps))));
    for (let i = 0; i < hidden; i++) out[first + i] = round(round(x[first + i]! * scale) * gain[i]!);
  }
  return out;
}
