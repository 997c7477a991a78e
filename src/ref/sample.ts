import { random4 } from "./random.ts";
import { exact, type Round } from "./round.ts";

/** How tokens are chosen, as the kernel takes it, and what else the choice depends on. */
export interface SampleCase {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  readonly bias?: Float32Array;
  readonly seen?: ReadonlySet<number>;
  readonly seed: number;
  readonly step: number;
}

/** A choice, and how narrowly it was made. */
export interface SampleChoice {
  readonly token: number;
  readonly logprob: number;
  /** Ids of the tokens that truncation kept, likeliest first. */
  readonly kept: readonly number[];
  /** By how much the chosen token's draw is the largest. */
  readonly lead: number;
  /** How far topP and minP are from keeping one token more or less, as a share of the mass or of the largest. */
  readonly slack: number;
}

/** Logits after penalty and bias: f32 by definition, since equal ones stay together. */
export function processedLogits(logits: Float32Array, { repetitionPenalty: r, bias, seen }: SampleCase): Float32Array {
  return logits.map((logit, i) => {
    const penalized = seen?.has(i) ? Math.fround(logit > 0 ? logit / r : logit * r) : logit;
    return Math.fround(penalized + (bias?.[i] ?? 0));
  });
}

/** Noise of a token's draw: -log of an exponential deviate. */
export function gumbelNoise(token: number, seed: number, step: number): number {
  const word = random4([token >> 2, step, seed, 2])[token & 3]!;
  return -Math.log(-Math.log1p(-(word + 0.5) / 2 ** 32));
}

/**
 * Twin of `wgsl/sample.wgsl` in f64, by sorting; `round = Math.fround` gives the naive f32 version of the
 * log-probability.
 */
export function sampleRef(logits: Float32Array, options: SampleCase, round: Round = exact): SampleChoice {
  const { temperature, topK, topP, minP, seed, step } = options, y = processedLogits(logits, options);
  const order = Array.from(y.keys()).sort((a, b) => y[b]! - y[a]! || a - b), most = y[order[0]!]!;
  let kept = order, slack = Infinity;
  if (temperature > 0) {
    if (topK > 0 && topK < kept.length) kept = kept.filter((i) => y[i]! >= y[order[topK - 1]!]!);
    const weight = (i: number): number => Math.exp((y[i]! - most) / temperature);
    if (topP < 1) {
      const need = topP * kept.reduce((sum, i) => sum + weight(i), 0);
      let mass = 0, length = 0;
      while (length < kept.length && (mass < need || y[kept[length]!] === y[kept[length - 1]!])) {
        if (y[kept[length]!] !== y[kept[length - 1]!]) slack = Math.min(slack, Math.abs(mass / need - 1));
        mass += weight(kept[length++]!);
      }
      if (length < kept.length) slack = Math.min(slack, Math.abs(mass / need - 1));
      kept = kept.slice(0, length);
    }
    if (minP > 0) {
      for (const i of kept) slack = Math.min(slack, Math.abs(weight(i) / minP - 1) || Infinity);
      kept = kept.filter((i) => weight(i) >= minP);
    }
  }
  let token = 0, best = -Infinity, second = -Infinity;
  for (const i of kept.toSorted((a, b) => a - b)) {
    const draw = y[i]! + (temperature > 0 ? temperature * gumbelNoise(i, seed, step) : 0);
    if (draw > best) [token, best, second] = [i, draw, best];
    else second = Math.max(second, draw);
  }
  let sum = 0;
  for (const v of y) sum = round(sum + round(Math.exp(round(v - most))));
  const logprob = round(round(y[token]! - most) - round(Math.log(sum)));
  return { token, logprob, kept, lead: best - second, slack };
}
