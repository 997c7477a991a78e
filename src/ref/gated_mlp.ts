import { exact, type Round } from "./round.ts";

/** Twin of `wgsl/gated_mlp.wgsl` in f64; `round = Math.fround` gives the naive f32 version. */
export function gatedMlpRef(gateUp: Float32Array, tokens: number, round: Round = exact): Float64Array {
  const ffn = gateUp.length / tokens / 2;
  return Float64Array.from({ length: tokens * ffn }, (_, i) => {
    const at = Math.floor(i / ffn) * 2 * ffn + i % ffn, gate = gateUp[at]!;
    return round(round(gate / round(1 + round(Math.exp(-gate)))) * gateUp[at + ffn]!);
  });
}
