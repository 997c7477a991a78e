import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { chanceOfLosing, pairedBootstrap, quantile, summarize } from "../../src/eval/stats.ts";

Deno.test("quantile() interpolates", () => {
  assertEquals(quantile([1, 2, 3, 4, 5], 0.5), 3);
  assertEquals(quantile([1, 2], 0.25), 1.25);
  assertEquals(Number.isNaN(quantile([], 0.5)), true);
});

Deno.test("summarize() weighs tokens, not documents", () => {
  const document = (nll: number[], kl: number[]) => ({
    nll: Float32Array.from(nll),
    kl: Float32Array.from(kl),
    agrees: Uint8Array.from(nll, (v) => v < 2 ? 1 : 0),
    margin: Float32Array.from(nll, (v) => v / 10),
  });
  const figures = summarize([document([1, 1, 3], [0.1, 0.2, 0.3]), document([2], [0.4])]);
  assertEquals(figures.tokens, 4);
  assertAlmostEquals(figures.perplexity, Math.exp(7 / 4), 1e-6);
  assertAlmostEquals(figures.kl.mean, 0.25, 1e-6);
  assertEquals(figures.top1, 0.5);
  assertAlmostEquals(figures.top1ByMargin.below30, 2 / 3, 1e-9);
  assertAlmostEquals(figures.perplexitySecondHalf, Math.exp(3), 1e-6);
});

Deno.test("pairedBootstrap() covers the true difference about as often as it says", () => {
  const rng = new Rng(3);
  let covered = 0;
  for (let trial = 0; trial < 200; trial++) {
    const base = Array.from({ length: 30 }, () => Float32Array.from({ length: 5 + rng.below(20) }, () => rng.normal()));
    const shifted = base.map((d) => {
      const own = 0.3 + 0.2 * rng.normal();
      return d.map((v) => v + own);
    });
    const { low, high } = pairedBootstrap(shifted, base, 300, trial);
    if (low <= 0.3 && 0.3 <= high) covered++;
  }
  assert(covered >= 174 && covered <= 199, `covered ${covered} of 200 at 95 %`);
});

Deno.test("chanceOfLosing() is the tail of fair tosses, of many as of few", () => {
  assertEquals(chanceOfLosing(0, 0), 1);
  assertAlmostEquals(chanceOfLosing(1, 0), 1 / 2, 1e-12);
  assertAlmostEquals(chanceOfLosing(4, 1), 6 / 32, 1e-12);
  assertAlmostEquals(chanceOfLosing(0, 3), 1, 1e-12);
  assert(chanceOfLosing(1100, 1000) < 0.025 && chanceOfLosing(1050, 1000) > 0.1);
});
