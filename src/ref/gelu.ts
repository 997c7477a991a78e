import { exact, type Round } from "./round.ts";

type Numbers = Float32Array | Float64Array;

/** The error function in f64, by the series whose terms all have one sign. */
export function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x, sum = x;
  for (let i = 1; Math.abs(term) > 1e-18 * Math.abs(sum); i++) sum += term *= 2 * x * x / (2 * i + 1);
  return 2 / Math.sqrt(Math.PI) * Math.exp(-x * x) * sum;
}

const cdf = (x: number, round: Round): number => round(0.5 + round(0.5 * round(erf(round(x * Math.SQRT1_2)))));

/** Twin of `wgsl/gelu.wgsl` in f64; `round = Math.fround` gives the naive f32 version. */
export function geluRef(x: Numbers, round: Round = exact): Float64Array {
  return Float64Array.from(x, (v) => round(v * cdf(v, round)));
}

/** Twin of its backward form: `gradient` times the derivative at `x`. */
export function geluBackwardRef(x: Numbers, gradient: Numbers, round: Round = exact): Float64Array {
  return Float64Array.from(x, (v, i) => {
    const density = round(round(Math.exp(round(round(-0.5 * v) * v))) / Math.sqrt(2 * Math.PI));
    return round(gradient[i]! * round(cdf(v, round) + round(v * round(density))));
  });
}
