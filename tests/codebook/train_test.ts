import { assert, assertEquals, assertRejects } from "@std/assert";
import { type CodecShape, type PairStage, pairStages } from "../../src/core/codec.ts";
import { fromF16Array } from "../../src/core/f16.ts";
import { headBytes, HeadGroup } from "../../src/codebook/head_group.ts";
import { addMoments, metricRoots } from "../../src/codebook/metric.ts";
import { RIDGE, solveStage } from "../../src/codebook/solve.ts";
import { layerNmse, measureStages, trainStages } from "../../src/codebook/train.ts";
import { levels, roundWords } from "../../src/codebook/words.ts";
import { Rng } from "../../src/core/rng.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { codeResidualRef } from "../../src/ref/code_residual.ts";
import { emTrainRef } from "../../src/ref/em_train.ts";
import { correlated } from "./_vectors.ts";

const dims = { kvHeads: 2, headDim: 16 }, TOKENS = 700;
const MIXED: CodecShape = {
  headDim: 16,
  stages: [{ kind: "pair", tied: false }, { kind: "sub", pairs: 4 }, { kind: "pair", tied: true }],
};
const rows = (data: Float32Array) => ({ form: "rows", parts: [data] }) as const;
const mean = (x: Float64Array): number => x.reduce((a, b) => a + b) / x.length;

Deno.test("training", async (t) => {
  using gpu = await Gpu.create();
  const vectors = rows(correlated(TOKENS, 32, 61)), heldout = rows(correlated(300, 32, 62));

  await t.step("an EM step is the plain one in f64", async () => {
    for (const stage of [{ kind: "pair", tied: true }, { kind: "pair", tied: false }] satisfies PairStage[]) {
      const data = correlated(200, 8, 63), one = { kvHeads: 1, headDim: 8 };
      const { residual } = codeResidualRef(data, one), half = 64 * 8;
      const first = Float64Array.from(fromF16Array(roundWords(correlated(128, 8, 64), 8)), (x) => x / 16);
      if (stage.tied) {
        for (let i = 0; i < half; i += 2) [first[half + i], first[half + i + 1]] = [-first[i + 1]!, first[i]!];
      }
      const want = emTrainRef(residual, first, { headDim: 8, heads: 1, tokens: 200, stage }, 4, RIDGE * 200 / 128);
      using group = await HeadGroup.create(gpu, one, rows(data), { head: 0, heads: 1 });
      await group.begin(stage);
      let words: Float64Array = first;
      for (let step = 0; step <= 4; step++) {
        group.submit(roundWords(words, 8));
        const [found] = await group.read(), ratio = found!.loss / want.losses[step]!;
        const within = step < 2 ? 2e-3 : 3e-2; // a token near a tie may go the other way, and others after it
        assert(
          Math.abs(ratio - 1) < within,
          `step ${step}, tied ${stage.tied}: loss ${found!.loss} for ${want.losses[step]}`,
        );
        words = solveStage(stage, found!, 8, words);
      }
    }
  });

  for (const codec of [pairStages(16, 4, true), pairStages(16, 3, false), MIXED]) {
    for (const precision of ["f16", "int8"] as const) {
      await t.step(
        `error never rises with another stage, and falls: ${JSON.stringify(codec.stages)}, ${precision}`,
        async () => {
          const trained = await trainStages(gpu, dims, vectors, codec, { iterations: 6, precision });
          for (let head = 0; head < 2; head++) {
            let last = 1;
            for (const nmse of trained.nmse) {
              assert(nmse[head]! < 0.9 * last, `${nmse[head]} after ${last}`);
              last = nmse[head]!;
            }
          }
          const held = await measureStages(gpu, dims, heldout, codec, trained.stages);
          held.nmse.reduce((last, x) => (assert(mean(x) < last), mean(x)), 1);
          const again = await measureStages(gpu, dims, vectors, codec, trained.stages);
          assertEquals(
            again.nmse.map(mean),
            trained.nmse.map(mean),
            "measuring the training vectors gives the training error",
          );
        },
      );
    }
  }

  await t.step("in a metric, error falls there, as measuring words that are stored says", async () => {
    const metrics = new Float64Array(512);
    addMoments(metrics, correlated(5, 32, 65), { headDim: 16, group: 1, stride: 32 });
    const codec = pairStages(16, 3, false), metric = metricRoots(metrics, 16);
    for (const precision of ["f16", "int8"] as const) {
      const trained = await trainStages(gpu, dims, vectors, codec, { iterations: 6, precision, metric });
      trained.nmse.reduce((last, x) => (assert(mean(x) < 0.9 * last, `${mean(x)} after ${last}`), mean(x)), 1);
      const again = await measureStages(gpu, dims, vectors, codec, trained.stages, { metric });
      assertEquals(again.nmse.map(mean), trained.nmse.map(mean));
      assertEquals(
        roundWords(fromF16Array(trained.stages[1]!), 16, levels(precision, 1)),
        trained.stages[1],
        "stored as rounded",
      );
    }
    const parts = await trainStages(gpu, dims, vectors, codec, { iterations: 3, metric, memory: 1 << 20 });
    const whole = await trainStages(gpu, dims, vectors, codec, { iterations: 3, metric });
    assertEquals(parts.nmse.map(mean), whole.nmse.map(mean), "each head has its own metric, whatever the group");
    await assertRejects(
      () => trainStages(gpu, dims, vectors, MIXED, { metric }),
      RangeError,
      "no stage may be tied",
    );
  });

  await t.step("error never rises on hostile vectors", async () => {
    const cases = {
      zeros: new Float32Array(40 * 32),
      constant: new Float32Array(70 * 32).fill(3),
      duplicates: Float32Array.from({ length: 70 * 32 }, (_, i) => Math.sin(i % 32)),
      one: correlated(1, 32, 65),
      outliers: correlated(100, 32, 66).map((x, i) => i % 301 === 0 ? 2000 * x : x),
    };
    for (const [name, data] of Object.entries(cases)) {
      for (const assignment of ["hard", "soft"] as const) {
        const codec = { headDim: 16, stages: [...pairStages(16, 2, true).stages, MIXED.stages[1]!] };
        const { nmse } = await trainStages(gpu, dims, rows(data), codec, { iterations: 3, assignment });
        for (let head = 0; head < 2; head++) {
          const errors = nmse.map((x) => x[head]!);
          assert(
            errors.every((x, i) => Number.isFinite(x) && x <= (errors[i - 1] ?? 1)),
            `${name}, ${assignment}: ${errors}`,
          );
        }
      }
    }
  });

  await t.step("words that would raise the error are not taken", async () => {
    const rng = new Rng(69), noise = Float32Array.from({ length: 1000 * 128 }, () => rng.normal());
    const one = { kvHeads: 1, headDim: 128 }, codec = pairStages(128, 1, false);
    const { nmse } = await trainStages(gpu, one, rows(noise), codec, { iterations: 0 }); // random words alone
    assertEquals(nmse[0]![0], 1);
  });

  await t.step("the same seed gives the same words, however many heads are trained at once", async () => {
    const codec = pairStages(16, 2, false), options = { iterations: 4, seed: 7 };
    const bytes = headBytes(16, TOKENS, codec.stages, false), wide = { kvHeads: 5, headDim: 16 };
    const many = rows(correlated(TOKENS, 80, 67));
    const a = await trainStages(gpu, wide, many, codec, options);
    const b = await trainStages(gpu, wide, many, codec, options);
    assertEquals(a.stages, b.stages);
    for (const memory of [1.5 * bytes, 2.2 * bytes, 4.5 * bytes]) {
      assertEquals((await trainStages(gpu, wide, many, codec, { ...options, memory })).stages, a.stages);
    }
    const other = await trainStages(gpu, wide, many, codec, { ...options, seed: 8 });
    assert(a.stages[0]!.some((x, i) => x !== other.stages[0]![i]));
  });

  await t.step("vectors may come in parts, from the host or the GPU, as rows or as a cache", async () => {
    const data = vectors.parts[0], codec = pairStages(16, 1, true), options = { iterations: 3 };
    const want = await trainStages(gpu, dims, vectors, codec, options);
    using first = gpu.upload("first", "f32", [64, 32], data.subarray(0, 64 * 32));
    const mixed = { form: "rows", parts: [first, data.subarray(64 * 32)] } as const;
    assertEquals((await trainStages(gpu, dims, mixed, codec, options)).stages, want.stages);
    const cached = new Float32Array(data.length);
    data.forEach((x, i) => cached[((Math.floor(i / 16) % 2) * TOKENS + Math.floor(i / 32)) * 16 + i % 16] = x);
    using cache = gpu.upload("cache", "u32", [2, TOKENS, 8], new Uint32Array(roundWords(cached, 16).buffer));
    const { nmse } = await trainStages(gpu, dims, { form: "cache", parts: [cache] }, codec, options);
    assert(Math.abs(mean(nmse[0]!) / mean(want.nmse[0]!) - 1) < 0.05);
    const ragged = { form: "rows", parts: [data.subarray(0, 10 * 32), data.subarray(10 * 32)] } as const;
    await assertRejects(() => trainStages(gpu, dims, ragged, codec), RangeError, "whole blocks of 32 tokens");
  });

  await t.step("soft assignment is as good as hard", async () => {
    const codec = pairStages(16, 2, true);
    const few = rows(vectors.parts[0].subarray(0, 400 * 32));
    const hard = await trainStages(gpu, dims, few, codec, { iterations: 20 });
    const soft = await trainStages(gpu, dims, few, codec, { iterations: 12, assignment: "soft" });
    const [a, b] = [mean(hard.nmse[1]!), mean(soft.nmse[1]!)];
    assert(b < 1.1 * a && b > 0.7 * a, `soft ${b}, hard ${a}`);
  });

  await t.step("tells how it goes, and stops when told", async () => {
    const seen: string[] = [], codec = pairStages(16, 2, true);
    await trainStages(gpu, dims, vectors, codec, {
      iterations: 2,
      onProgress: ({ head, stage, stages, done }) => seen.push(`${stage}/${stages} ${head} ${done}`),
    });
    assertEquals(seen, ["0/2 0 0.5", "0/2 1 0.5", "1/2 0 1", "1/2 1 1"]);
    const stop = new AbortController(), options = { iterations: 50, signal: stop.signal };
    const run = trainStages(gpu, dims, vectors, codec, {
      ...options,
      onProgress: () => stop.abort(new Error("enough")),
    });
    await assertRejects(() => run, Error, "enough");
  });

  await t.step("refuses no tokens, and heads that do not fit the memory", async () => {
    const codec = pairStages(16, 1, true);
    await assertRejects(
      () => trainStages(gpu, dims, rows(new Float32Array(0)), codec),
      RangeError,
      "at least one token",
    );
    await assertRejects(
      () => trainStages(gpu, dims, vectors, codec, { memory: 1000 }),
      RangeError,
      "Train on fewer tokens",
    );
  });
});

Deno.test("layerNmse() means heads of keys, and weighs heads of values by their energy", () => {
  const one = { nmse: [Float64Array.of(0.1, 0.3)], energy: Float64Array.of(3, 1) };
  assertEquals(layerNmse(one, "keys").map((x) => x.toFixed(6)), ["0.200000"]);
  assertEquals(layerNmse(one, "values").map((x) => x.toFixed(6)), ["0.150000"]);
});

Deno.test("multiplying by a codeword commutes with RoPE to 1e-6 in f32", async () => {
  using gpu = await Gpu.create();
  const { stages } = await trainStages(gpu, { kvHeads: 1, headDim: 16 }, rows(correlated(200, 16, 68)), MIXED, {
    iterations: 2,
  });
  const f = Math.fround, words = fromF16Array(stages[0]!);
  const times = ([a, b]: number[], [c, d]: number[]) => [f(f(a! * c!) - f(b! * d!)), f(f(a! * d!) + f(b! * c!))];
  for (let i = 0; i < words.length; i += 2) {
    const word = [words[i]!, words[i + 1]!], angle = i * 37.7, turn = [f(Math.cos(angle)), f(Math.sin(angle))];
    const query = [f(Math.sin(i)), f(Math.cos(3 * i))];
    const before = times(times(word, turn), query), after = times(times(word, query), turn);
    const size = Math.hypot(...word) * Math.hypot(...query);
    assert(Math.hypot(before[0]! - after[0]!, before[1]! - after[1]!) <= 1e-6 * size);
  }
});
