import type { ValueWidths } from "../core/shapes.ts";
import { exact, type Round } from "./round.ts";

type Numbers = Float32Array | Float64Array;

/** Where the parts of a linear layer with its layer norm begin: weight at 0, then these. */
function places(features: number, { hidden }: Pick<ValueWidths, "hidden">): Record<"bias" | "gain" | "offset", number> {
  const bias = hidden * features;
  return { bias, gain: bias + hidden, offset: bias + hidden + features };
}

/** Twin of `wgsl/layer_norm_fold.wgsl` for one layer; `round = Math.fround` gives the naive f32 version. */
export function layerNormFoldRef(
  linear: Numbers,
  features: number,
  widths: ValueWidths,
  round: Round = exact,
): Float64Array {
  const at = places(features, widths), folded = new Float64Array(widths.folded);
  for (let j = 0; j < widths.hidden; j++) {
    let sum = 0;
    for (let f = 0; f < features; f++) {
      const weight = linear[j * features + f]!;
      folded[j * features + f] = round(weight * linear[at.gain + f]!);
      sum = round(sum + round(weight * linear[at.offset + f]!));
    }
    folded[at.bias + j] = round(linear[at.bias + j]! + sum);
  }
  return folded;
}

/** Twin of its backward form: the gradient of `linear` from that of what it folds to. */
export function layerNormUnfoldRef(
  linear: Numbers,
  gradient: Numbers,
  features: number,
  widths: ValueWidths,
  round: Round = exact,
): Float64Array {
  const at = places(features, widths), out = new Float64Array(widths.linear1);
  for (let j = 0; j < widths.hidden; j++) {
    const dBias = gradient[at.bias + j]!;
    out[at.bias + j] = dBias;
    for (let f = 0; f < features; f++) {
      const weight = linear[j * features + f]!, dWeight = gradient[j * features + f]!;
      out[j * features + f] = round(round(dWeight * linear[at.gain + f]!) + round(dBias * linear[at.offset + f]!));
      out[at.gain + f] = round(out[at.gain + f]! + round(weight * dWeight));
      out[at.offset + f] = round(out[at.offset + f]! + round(weight * dBias));
    }
  }
  return out;
}
