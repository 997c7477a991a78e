/**
 * What per-token measurements come to.
 *
 * @module
 */
import { Rng } from "../core/rng.ts";

/** One document's tokens as scored under a quantized cache, and under the exact one. */
export interface TokenScores {
  /** Loss of each predicted token in nats, `[T - 1]`. */
  readonly nll: Float32Array;
  /** KL divergence of the quantized prediction from the exact one, in nats, `[T - 1]`. */
  readonly kl: Float32Array;
  /** Whether the likeliest token is the exact cache's, `[T - 1]`. */
  readonly agrees: Uint8Array;
  /** Probability of the exact cache's likeliest token less that of its second, `[T - 1]`. */
  readonly margin: Float32Array;
}

/** Figures over all documents. */
export interface LanguageFigures {
  /** Predictions. */
  readonly tokens: number;
  /** Over all predictions. */
  readonly perplexity: number;
  /** Over the second half of each document. */
  readonly perplexitySecondHalf: number;
  /** Perplexity by position: bins `[0,128) [128,256)`, then doubling. */
  readonly perplexityByPosition: readonly { from: number; to: number; perplexity: number }[];
  /** KL divergence from the exact cache's predictions, in nats. */
  readonly kl: { mean: number; median: number; p99: number; p999: number };
  /** Share of tokens on which the likeliest token is the exact cache's: all, and by the exact cache's margin. */
  readonly top1: number;
  /** The same where the exact cache's margin is under 0.1, from there to 0.3, and above. */
  readonly top1ByMargin: { below10: number; below30: number; above30: number };
}

/** The value that a share `q` of sorted numbers lies at or below, interpolated. */
export function quantile(sorted: ArrayLike<number>, q: number): number {
  if (sorted.length === 0) return NaN;
  const at = q * (sorted.length - 1), below = Math.floor(at), above = Math.ceil(at);
  return sorted[below]! + (at - below) * (sorted[above]! - sorted[below]!);
}

/** Mean of `values` over the indices that `keep` accepts. */
function meanWhere(values: ArrayLike<number>, keep: (i: number) => boolean): number {
  let sum = 0, count = 0;
  for (let i = 0; i < values.length; i++) {
    if (!keep(i)) continue;
    sum += values[i]!;
    count++;
  }
  return count ? sum / count : NaN;
}

function concat(arrays: readonly ArrayLike<number>[]): Float64Array {
  const out = new Float64Array(arrays.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const array of arrays) {
    out.set(array, at);
    at += array.length;
  }
  return out;
}

/** Summarizes documents. The second half of a document of T tokens are the predictions made from position T/2 on. */
export function summarize(documents: readonly TokenScores[]): LanguageFigures {
  const nll = concat(documents.map((d) => d.nll)), kl = concat(documents.map((d) => d.kl)).sort();
  const second = concat(documents.map(({ nll }) => nll.subarray((nll.length + 1) >> 1)));
  const agrees = concat(documents.map((d) => d.agrees)), margin = concat(documents.map((d) => d.margin));
  const longest = Math.max(0, ...documents.map((d) => d.nll.length)), byPosition = [];
  for (let from = 0, to = 128; from < longest; [from, to] = [to, 2 * to]) {
    const bin = concat(documents.map(({ nll }) => nll.subarray(from, to)));
    byPosition.push({ from, to, perplexity: Math.exp(meanWhere(bin, () => true)) });
  }
  return {
    tokens: nll.length,
    perplexity: Math.exp(meanWhere(nll, () => true)),
    perplexitySecondHalf: Math.exp(meanWhere(second, () => true)),
    perplexityByPosition: byPosition,
    kl: {
      mean: meanWhere(kl, () => true),
      median: quantile(kl, 0.5),
      p99: quantile(kl, 0.99),
      p999: quantile(kl, 0.999),
    },
    top1: meanWhere(agrees, () => true),
    top1ByMargin: {
      below10: meanWhere(agrees, (i) => margin[i]! < 0.1),
      below30: meanWhere(agrees, (i) => margin[i]! >= 0.1 && margin[i]! < 0.3),
      above30: meanWhere(agrees, (i) => margin[i]! >= 0.3),
    },
  };
}

/** A difference of means with its 95 % interval. */
export interface Difference {
  /** The difference itself. */
  readonly mean: number;
  /** Lower end of the interval. */
  readonly low: number;
  /** Upper end of the interval. */
  readonly high: number;
}

/**
 * Paired bootstrap over documents: how much larger the token mean of `a` is than that of `b`, resampling documents
 * (not tokens, which depend on each other).
 */
export function pairedBootstrap(
  a: readonly ArrayLike<number>[],
  b: readonly ArrayLike<number>[],
  resamples = 1000,
  seed = 0,
): Difference {
  const rng = new Rng(seed),
    sums = a.map((document, d) => {
      let sum = 0;
      for (let i = 0; i < document.length; i++) sum += document[i]! - b[d]![i]!;
      return { sum, count: document.length };
    });
  const mean = (picks: readonly { sum: number; count: number }[]): number =>
    picks.reduce((s, { sum }) => s + sum, 0) / picks.reduce((s, { count }) => s + count, 0);
  const means = Float64Array.from({ length: resamples }, () => mean(sums.map(() => sums[rng.below(sums.length)]!)))
    .sort();
  return { mean: mean(sums), low: quantile(means, 0.025), high: quantile(means, 0.975) };
}

/**
 * How likely it is that, of answers on which two methods differ, so many or more are `lost` if losing and gaining are
 * equally likely (McNemar's exact test, one-sided).
 */
export function chanceOfLosing(lost: number, gained: number): number {
  const all = lost + gained;
  let log = -all * Math.LN2, sum = 0;
  for (let k = 0; k <= all; log += Math.log((all - k) / (k + 1)), k++) if (k >= lost) sum += Math.exp(log);
  return sum;
}
