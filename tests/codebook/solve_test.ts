import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import type { PairStage, Stage } from "../../src/core/codec.ts";
import { stageRows } from "../../src/core/codec.ts";
import { Rng } from "../../src/core/rng.ts";
import { stageSizes } from "../../src/core/shapes.ts";
import { type Moments, ridgeOf, solveStage } from "../../src/codebook/solve.ts";
import { emAccumulateRef } from "../../src/ref/em_accumulate.ts";
import { residualAt } from "../../src/ref/code_residual.ts";
import { mStepRef } from "../../src/ref/em_train.ts";

interface Sample {
  readonly vectors: Float64Array[];
  readonly codes: Uint32Array;
  readonly moments: Moments;
}

/** Tokens with random codes; `used` of them at most. */
function sample(stage: Stage, headDim: number, tokens: number, used: number, seed: number): Sample {
  const rng = new Rng(seed), { groups, sums: width, cells } = stageSizes(headDim, stage);
  const vectors = Array.from({ length: tokens }, () => Float64Array.from({ length: headDim }, () => rng.normal()));
  const all = Math.ceil(tokens / 32) * 32,
    list = Array.from({ length: used }, () => rng.below(stage.kind === "pair" ? 4096 : 256));
  const codes = Uint32Array.from({ length: groups * all }, () => list[rng.below(used)]!);
  const residual = new Float64Array(all * headDim);
  vectors.forEach((x, t) => x.forEach((value, c) => residual[residualAt(headDim, tokens, 0, t, c)] = value));
  const dims = { headDim, heads: 1, tokens, stage };
  const sums = emAccumulateRef(
    { residual, codes, distances: new Float64Array(all), scales: new Float64Array(all) },
    dims,
  );
  const moments = {
    sums: sums.subarray(0, width - cells - 4),
    counts: sums.subarray(width - cells - 4, width - 4),
    tokens,
  };
  return { vectors, codes, moments };
}

/** Squared error and ridge, token by token. */
function objective({ vectors, codes, moments }: Sample, stage: Stage, words: Float64Array, headDim: number): number {
  const free = stage.kind === "pair" && stage.tied ? 64 : stageRows(stage), ridge = ridgeOf(stage, moments.tokens);
  const all = Math.ceil(vectors.length / 32) * 32, { groups } = stageSizes(headDim, stage);
  let sum = words.subarray(0, free * headDim).reduce((total, w) => total + ridge * w * w, 0);
  vectors.forEach((x, t) => {
    x.forEach((value, c) => {
      const code = codes[Math.floor(c * groups / headDim) * all + t]!;
      const w = stage.kind === "sub"
        ? words[code * headDim + c]!
        : words[(code >> 6) * headDim + c]! + words[(64 + (code & 63)) * headDim + c]!;
      sum += (value - w) ** 2;
    });
  });
  return sum;
}

/** Random words; tied ones are. */
function randomWords(stage: Stage, headDim: number, rng: Rng): Float64Array {
  const words = Float64Array.from({ length: stageRows(stage) * headDim }, () => rng.normal()), half = words.length / 2;
  if (stage.kind === "pair" && stage.tied) {
    for (let i = 0; i < half; i += 2) [words[half + i], words[half + i + 1]] = [-words[i + 1]!, words[i]!];
  }
  return words;
}

const PAIRS: readonly PairStage[] = [{ kind: "pair", tied: true }, { kind: "pair", tied: false }];

Deno.test("solveStage() agrees with normal equations built token by token and eliminated", () => {
  for (const stage of PAIRS) {
    for (const used of [1, 3, 4096]) {
      const { vectors, codes, moments } = sample(stage, 4, 150, used, 51);
      const got = solveStage(stage, moments, 4, new Float64Array(0));
      const want = mStepRef(vectors, codes, stage, ridgeOf(stage, 150));
      got.forEach((w, i) => assertAlmostEquals(w, want[i]!, 1e-9, `word ${i >> 2}, tied ${stage.tied}, ${used} codes`));
    }
  }
});

Deno.test("solveStage() never raises its objective, nor does any step short of twice as far", () => {
  for (const stage of [...PAIRS, { kind: "sub", pairs: 4 } as const]) {
    for (const used of [1, 2, 40, 4096]) {
      const one = sample(stage, 16, 600, used, 52), rng = new Rng(53);
      for (let trial = 0; trial < 4; trial++) {
        const old = randomWords(stage, 16, rng), words = solveStage(stage, one.moments, 16, old);
        const before = objective(one, stage, old, 16), least = objective(one, stage, words, 16);
        assert(least <= before);
        for (const factor of [0.5, 1.7, 1.99]) {
          const between = words.map((w, i) => old[i]! + factor * (w - old[i]!));
          const value = objective(one, stage, between, 16);
          assert(value <= before * (1 + 1e-12) && value >= least * (1 - 1e-12), `${value}, ${before}, ${least}`);
        }
      }
    }
  }
});

Deno.test("solveStage() keeps the words of a sub stage that no token uses", () => {
  const stage = { kind: "sub", pairs: 4 } as const, { codes, moments } = sample(stage, 8, 40, 5, 54);
  const old = randomWords(stage, 8, new Rng(55)), words = solveStage(stage, moments, 8, old), used = new Set(codes);
  for (let row = 0; row < 256; row++) {
    const own = words.subarray(row * 8, row * 8 + 8);
    if (!used.has(row)) assertEquals(own, old.subarray(row * 8, row * 8 + 8));
  }
});

Deno.test("solveStage() ties words exactly", () => {
  const words = solveStage(PAIRS[0]!, sample(PAIRS[0]!, 8, 90, 4096, 56).moments, 8, new Float64Array(0));
  for (let i = 0; i < 512; i += 2) {
    assert(words[512 + i] === -words[i + 1]! && words[512 + i + 1] === words[i]);
  }
});
