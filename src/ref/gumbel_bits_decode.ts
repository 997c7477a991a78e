import { fromF16 } from "../core/f16.ts";
import { exact, type Round } from "./round.ts";

type Numbers = Float32Array | Float64Array;

/** Twin of `wgsl/gumbel_bits_decode.wgsl` in f64; `round = Math.fround` gives the naive f32 version. */
export function gumbelBitsDecodeRef(
  words: Uint32Array,
  scales: Uint16Array,
  codebook: Numbers,
  scale: Numbers,
  round: Round = exact,
): Float64Array {
  const features = scale.length, out = new Float64Array(scales.length * features), each = words.length / scales.length;
  scales.forEach((half, t) => {
    for (let bit = 0; bit < 32 * each; bit++) {
      if ((words[t * each + (bit >>> 5)]! >>> (bit & 31) & 1) === 0) continue;
      for (let f = 0; f < features; f++) {
        out[t * features + f] = round(out[t * features + f]! + codebook[bit * features + f]!);
      }
    }
    const s = fromF16(half);
    for (let f = 0; f < features; f++) out[t * features + f] = round(round(s * scale[f]!) * out[t * features + f]!);
  });
  return out;
}
