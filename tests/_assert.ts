/** Assertions on arrays of numbers, and sample data that tests something. */
import { assert, AssertionError } from "@std/assert";
import type { Rng } from "../src/core/rng.ts";

/** Root of the summed squares of `a - b`, over that of `b`. */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let error = 0, norm = 0;
  for (let i = 0; i < b.length; i++) {
    error += (a[i]! - b[i]!) ** 2;
    norm += b[i]! ** 2;
  }
  return Math.sqrt(error / (norm || 1));
}

/**
 * Asserts that `actual` is as close to the f64 reference `exact` as twice the error of `naive`, a plain f32
 * implementation, with a floor of `floor` times the largest reference (rounding of the result itself). Both the
 * largest and the root-mean-square error must hold.
 */
export function assertAsAccurateAs(
  actual: ArrayLike<number>,
  naive: ArrayLike<number>,
  exact: ArrayLike<number>,
  floor = 2 ** -22,
): void {
  if (actual.length !== exact.length) {
    throw new AssertionError({ message: `expected ${exact.length} numbers, got ${actual.length}` });
  }
  let worst = 0, worstNaive = 0, sum = 0, sumNaive = 0, most = 0, at = 0;
  for (let i = 0; i < exact.length; i++) {
    const error = Math.abs(actual[i]! - exact[i]!), rival = Math.abs(naive[i]! - exact[i]!);
    if (!(error <= worst)) [worst, at] = [error, i]; // NaN counts as the worst
    worstNaive = Math.max(worstNaive, rival);
    sum += error ** 2;
    sumNaive += rival ** 2;
    most = Math.max(most, Math.abs(exact[i]!));
  }
  const limit = 2 * worstNaive + floor * most;
  assert(
    worst <= limit,
    `error ${worst} at ${at} (${actual[at]} for ${exact[at]}) exceeds ${limit}: naive f32 errs by ${worstNaive}`,
  );
  const rms = Math.sqrt(sum / exact.length), rmsLimit = 2 * Math.sqrt(sumNaive / exact.length) + floor * most;
  assert(rms <= rmsLimit, `root-mean-square error ${rms} exceeds ${rmsLimit}`);
}

/** Seeded normal numbers with a few outliers of twenty times the size. */
export function normals(rng: Rng, count: number, scale = 1): Float32Array {
  return Float32Array.from({ length: count }, () => rng.normal() * scale * (rng.below(97) === 0 ? 20 : 1));
}
