import { fromF16, toF16 } from "../core/f16.ts";
import { exact, type Round } from "./round.ts";

type Numbers = Float32Array | Float64Array;

/** Twin of `wgsl/unit_norm.wgsl` for one layer in f64; `round = Math.fround` gives the naive f32 version. */
export function unitNormRef(
  normed: Numbers,
  stats: Numbers,
  scale: Numbers,
  v: Numbers,
  backward: boolean,
  round: Round = exact,
): { gradient: Float64Array; scales: Float64Array; errors: Float64Array } {
  const features = scale.length, tokens = v.length / features, gradient = new Float64Array(v.length);
  const scales = new Float64Array(tokens), errors = new Float64Array(2 * tokens);
  for (let t = 0; t < tokens; t++) {
    const [p, mean, deviation, weight] = stats.subarray(4 * t, 4 * t + 4) as unknown as [
      number,
      number,
      number,
      number,
    ];
    let square = 0, along = 0;
    for (let f = 0; f < features; f++) square = round(square + round(v[t * features + f]! ** 2));
    const n = round(Math.sqrt(square)), s = round(p / round(n + 1e-6)), stored = backward ? s : fromF16(toF16(s));
    scales[t] = s;
    const pulls = Float64Array.from({ length: features }, (_, f) => {
      const at = t * features + f, unit = round(p * scale[f]!);
      const y = round(unit * round(round(normed[at]! * deviation) + mean));
      const error = round(round(round(stored * scale[f]!) * v[at]!) - y), pull = round(unit * error);
      errors[2 * t] = round(errors[2 * t]! + round(error * error));
      errors[2 * t + 1] = round(errors[2 * t + 1]! + round(y * y));
      along = round(along + round(pull * v[at]!));
      return pull;
    });
    if (!backward || n === 0) continue;
    const slope = round(round(along / round(n + 1e-6)) / n), factor = round(weight / round(n + 1e-6));
    pulls.forEach((pull, f) => {
      const at = t * features + f;
      gradient[at] = round(factor * round(pull - round(slope * v[at]!)));
    });
  }
  return { gradient, scales, errors };
}
