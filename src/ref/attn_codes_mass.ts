import { weightsRef } from "./attn_codes_values.ts";
import { lookupsOf, type PackedNumbers } from "./code_decode.ts";
import { exact, type Round } from "./round.ts";

/**
 * Twin of `wgsl/attn_codes_mass.wgsl` in f64, one split: `mass [Q][lookups][64]` and `md [Q][2]`; `round = Math.fround`
 * gives the naive f32 version.
 *
 * @param scores `[Q][T]`
 */
export function attnCodesMassRef(
  scores: ArrayLike<number>,
  packed: PackedNumbers,
  qHeads: number,
  round: Round = exact,
): { mass: Float64Array; md: Float64Array } {
  const { codec, kvHeads, scales } = packed, tokens = scores.length / qHeads, size = 128 * codec.stages.length;
  const mass = new Float64Array(qHeads * size), md = new Float64Array(2 * qHeads);
  for (let h = 0; h < qHeads; h++) {
    const own = Array.prototype.slice.call(scores, h * tokens, (h + 1) * tokens) as number[];
    const { m, d, weights } = weightsRef(own, round);
    md.set([m, d], 2 * h);
    for (let t = 0; t < tokens; t++) {
      const w = round(weights[t]! * scales[t]!);
      for (const { row } of lookupsOf(packed, Math.floor(h * kvHeads / qHeads), t)) {
        mass[h * size + row] = round(mass[h * size + row]! + w);
      }
    }
  }
  return { mass, md };
}
