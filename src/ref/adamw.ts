import { exact, type Round } from "./round.ts";

/** What AdamW keeps between steps, beside the parameters that it changes. */
export interface AdamWState {
  readonly parameters: Float64Array;
  readonly mean: Float64Array;
  readonly square: Float64Array;
}

/** Twin of `wgsl/adamw.wgsl`, in place, in f64; `round = Math.fround` gives the naive f32 version. */
export function adamwRef(
  { parameters, mean, square }: AdamWState,
  gradients: Float32Array | Float64Array,
  { step, rate, decay, beta1, beta2 }: { step: number; rate: number; decay: number; beta1: number; beta2: number },
  round: Round = exact,
): void {
  const count = parameters.length, slabs = gradients.length / count;
  const correction1 = round(1 - beta1 ** step), correction2 = round(1 - beta2 ** step);
  for (let i = 0; i < count; i++) {
    let g = 0;
    for (let slab = 0; slab < slabs; slab++) g = round(g + gradients[slab * count + i]!);
    const m = mean[i] = round(round(beta1 * mean[i]!) + round(round(1 - beta1) * g));
    const s = square[i] = round(round(beta2 * square[i]!) + round(round(round(1 - beta2) * g) * g));
    const change = round(round(m / correction1) / round(round(Math.sqrt(round(s / correction2))) + 1e-8));
    parameters[i] = round(round(parameters[i]! * round(1 - round(rate * decay))) - round(rate * change));
  }
}
