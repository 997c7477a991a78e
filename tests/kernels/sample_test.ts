import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { sampleShapes } from "../../src/core/shapes.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { Sample } from "../../src/kernels/sample.ts";
import { gumbelNoise, processedLogits, type SampleCase, type SampleChoice, sampleRef } from "../../src/ref/sample.ts";
import { assertAsAccurateAs } from "../_assert.ts";
import { onEachText } from "../_gpu.ts";

const GREEDY: SampleCase = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  seed: 1,
  step: 0,
};

/** Bits of a set of tokens, as `seen` holds them. */
function bitsOf(vocab: number, seen: Iterable<number> = []): Uint32Array {
  const bits = new Uint32Array(Math.ceil(vocab / 32));
  for (const id of seen) bits[id >> 5]! |= 1 << (id & 31);
  return bits;
}

/** What the kernel chooses for every case, each with its own `seen`; the last one's record and `seen` too. */
async function run(gpu: Gpu, logits: Float32Array, cases: readonly SampleCase[]) {
  const vocab = logits.length, shapes = sampleShapes(vocab), op = await Sample.create(gpu), choices: number[] = [];
  using stack = new DisposableStack();
  const u32 = (name: string, data: Uint32Array) => stack.use(gpu.upload(name, "u32", [data.length], data));
  const f32 = (name: keyof typeof shapes, data?: Float32Array) =>
    stack.use(
      gpu.upload(
        name,
        "f32",
        shapes[name],
        data ?? new Float32Array(shapes[name].reduce((a, b) => a * b, 1)).fill(NaN),
      ),
    );
  const io = {
    logits: f32("logits", logits),
    seen: u32("seen", bitsOf(vocab)),
    partials: f32("partials"),
    sums: f32("sums"),
    state: stack.use(gpu.upload("state", "u32", shapes.state, new Uint32Array(64).fill(0x7fc00000))),
    tokens: u32("tokens", new Uint32Array(cases.length).fill(0xffffffff)),
    record: u32("record", new Uint32Array(2).fill(0x7fc00000)),
  };
  const logprobs = new Float32Array(cases.length);
  const each = cases.some(({ seen }) => seen) || cases.length < 4; // else all go in one submit
  let commands = gpu.commands();
  for (const [index, options] of cases.entries()) {
    const bias = options.bias && stack.use(gpu.upload("bias", "f32", shapes.bias, options.bias));
    if (each) gpu.write(io.seen, bitsOf(vocab, options.seen));
    op.encode(commands, { ...io, bias }, options, { seed: options.seed, step: options.step, index });
    if (each || index % 100 === 99) {
      commands.submit();
      commands = gpu.commands();
    }
    if (each) logprobs[index] = new Float32Array(await gpu.read(io.record))[1]!;
  }
  commands.submit();
  choices.push(...await gpu.readU32(io.tokens));
  return { choices, logprobs, record: await gpu.readU32(io.record), seen: await gpu.readU32(io.seen) };
}

/** The twin's choices, which both texts are held to. */
const known = new WeakMap<SampleCase, SampleChoice>();

function expected(logits: Float32Array, options: SampleCase): SampleChoice {
  let choice = known.get(options);
  if (!choice) known.set(options, choice = sampleRef(logits, options));
  return choice;
}

/** Asserts that the kernel chooses as its twin does, wherever that is not a matter of the last digit. */
async function assertChoices(gpu: Gpu, logits: Float32Array, cases: readonly SampleCase[]): Promise<void> {
  const { choices } = await run(gpu, logits, cases);
  let close = 0;
  cases.forEach((options, i) => {
    const want = expected(logits, options), hot = 1 + options.temperature;
    const tells = options.temperature === 0 || want.lead > 1e-4 * hot && want.slack > 1e-5;
    if (choices[i] !== want.token && !tells) return close++;
    assertEquals(
      choices[i],
      want.token,
      `case ${i}: ${JSON.stringify({ ...options, bias: !!options.bias, seen: [...options.seen ?? []] })}`,
    );
  });
  assert(close <= 0.02 * cases.length + 1, `${close} of ${cases.length} close cases went the other way`);
}

/**
 * Steps at which a search that keeps one token more, or one less, chooses otherwise: the draw's winner is the last token
 * kept, or would be the first one dropped.
 */
function tellingSteps(logits: Float32Array, options: SampleCase): SampleCase[] {
  const { kept, slack } = sampleRef(logits, options), y = processedLogits(logits, options), out: SampleCase[] = [];
  if (kept.length > 150 || kept.length === logits.length || slack < 1e-5) return out;
  const inside = new Set(kept), last = kept.at(-1)!;
  const dropped = y.reduce((best, v, i) => !inside.has(i) && !(y[best]! >= v) ? i : best, -1);
  for (const want of [last, dropped]) {
    for (let step = 0; step < 2000; step++) {
      const draw = (i: number) => y[i]! + options.temperature * gumbelNoise(i, options.seed, step), mine = draw(want);
      if ([dropped, ...kept].every((i) => i === want || draw(i) < mine)) {
        out.push({ ...options, step });
        break;
      }
    }
  }
  return out;
}

/** Once computed, the same for both texts. */
function once<T>(make: () => T): () => T {
  let made: T | undefined;
  return () => made ??= make();
}

interface Cases {
  readonly logits: Float32Array;
  readonly cases: SampleCase[];
}

/** Options of every kind, by vocabulary. */
const combinations = new Map([1, 7, 8192, 128256].map((vocab) => {
  const rng = new Rng(13),
    all = [false, true].map((repeats): Cases => ({
      logits: modelLike(vocab, 14, repeats),
      cases: Array.from({ length: vocab > 10000 ? 8 : 40 }, (_, step) => ({
        ...GREEDY,
        temperature: [0.3, 1, 2.5][rng.below(3)]!,
        topK: [0, 1, 3, 40, 1000, vocab, vocab + 5][rng.below(7)]!,
        topP: [1, 0.999, 0.95, 0.5, 0.1, 1e-6][rng.below(6)]!,
        minP: [0, 0, 0.05, 0.5, 1][rng.below(5)]!,
        seed: rng.u32(),
        step,
      })),
    }));
  return [vocab, all] as const;
}));

/** Cases that tell one token more or less, for every combination of options. */
const telling = once(() => {
  const rng = new Rng(25), adjacent = Float32Array.from({ length: 53 }, (_, i) => 8 + (i * 29 % 53) * 2 ** -20);
  return [modelLike(50, 26, false), adjacent, modelLike(8192, 26, false), modelLike(8192, 26, true)].map((logits) => {
    const cases: SampleCase[] = [];
    for (const topK of [0, 1, 2, 17, 49]) {
      for (const topP of [1, 0.9, 0.6, 0.2]) {
        for (const minP of [0, 0.03, 0.4]) {
          const temperature = [1, 1.7, 4][rng.below(3)]!;
          cases.push(...tellingSteps(logits, { ...GREEDY, temperature, topK, topP, minP, seed: rng.u32() }));
        }
      }
    }
    assert(cases.length > 50, `only ${cases.length} cases tell`);
    return { logits, cases };
  });
});

/** Cases over a large vocabulary that tell one token more or less. */
const tellingOfMany = once(() => {
  const logits = modelLike(128256, 29, false), cases: SampleCase[] = [];
  for (const topK of [17, 100]) {
    for (const topP of [1, 0.7]) {
      cases.push(...tellingSteps(logits, { ...GREEDY, temperature: 3, topK, topP, seed: topK }));
    }
  }
  assert(cases.length > 6, `only ${cases.length} cases tell`);
  return { logits, cases };
});

/** Cases whose winner leads by little, and one vocabulary where little noise decides. */
const narrow = once(() =>
  ([[2, 40, 1], [4, 40, 0.8], [128256, 6, 1e-7]] as const).map(([vocab, count, slope]): Cases => {
    const logits = new Float32Array(vocab).map((_, i) => slope * i), cases: SampleCase[] = [];
    for (let step = 0; cases.length < count; step++) {
      const options = { ...GREEDY, temperature: 1, seed: 28, step };
      const lead = vocab < 10 ? sampleRef(logits, options).lead : 3e-4;
      if (lead > 2e-4 && lead < 3e-3) cases.push(options);
    }
    return { logits, cases };
  })
);

/** Logits like a model's: a few likely tokens, a long tail, and values that repeat. */
function modelLike(vocab: number, seed: number, repeats: boolean): Float32Array {
  const rng = new Rng(seed), logits = Float32Array.from({ length: vocab }, () => 2.5 * rng.normal());
  return repeats ? logits.map((x) => Math.round(4 * x) / 4) : logits;
}

/** Chi-square of counts against probabilities, and its degrees of freedom; rare outcomes share a bin. */
function chiSquare(counts: readonly number[], probabilities: readonly number[]): { chi: number; freedom: number } {
  const draws = counts.reduce((a, b) => a + b, 0);
  let chi = 0, bins = 0, restCount = 0, rest = 0;
  probabilities.forEach((p, i) => {
    if (p * draws < 8) {
      restCount += counts[i]!;
      rest += p;
    } else {
      chi += (counts[i]! - p * draws) ** 2 / (p * draws);
      bins++;
    }
  });
  if (rest * draws >= 1) {
    chi += (restCount - rest * draws) ** 2 / (rest * draws);
    bins++;
  } else assert(restCount <= 5, `${restCount} draws of what hardly ever comes`);
  return { chi, freedom: bins - 1 };
}

/** Asserts that draws follow `probabilities`: neither too far nor, as from a sequence that evens out, too close. */
function assertDistribution(counts: readonly number[], probabilities: readonly number[]): void {
  const { chi, freedom } = chiSquare(counts, probabilities);
  // Wilson and Hilferty: the cube root is nearly normal.
  const z = (Math.cbrt(chi / freedom) - (1 - 2 / (9 * freedom))) / Math.sqrt(2 / (9 * freedom));
  assert(Math.abs(z) < 3.5, `chi-square ${chi} with ${freedom} degrees of freedom: z = ${z}`);
}

function countOf(choices: readonly number[], vocab: number): number[] {
  const counts = new Array<number>(vocab).fill(0);
  for (const id of choices) counts[id]!++;
  return counts;
}

function softmax(logits: readonly number[], temperature = 1): number[] {
  const most = Math.max(...logits), weights = logits.map((x) => Math.exp((x - most) / temperature));
  const sum = weights.reduce((a, b) => a + b);
  return weights.map((w) => w / sum);
}

Deno.test("sample", (t) =>
  onEachText(t, async (gpu, t) => {
    await t.step("greedy takes the largest, with its log-probability", async () => {
      const actual: number[] = [], exact: number[] = [], naive: number[] = [];
      for (const [vocab, scale] of [[1, 1], [7, 0.2], [7, 1], [8192, 0.3], [8192, 1], [128256, 0.5], [128256, 1]]) {
        const logits = modelLike(vocab!, 11, false).map((x) => x * scale!), want = sampleRef(logits, GREEDY);
        const { choices, record, logprobs, seen } = await run(gpu, logits, [GREEDY]);
        assertEquals([choices[0], record[0]], [want.token, want.token]);
        assertEquals(seen, bitsOf(vocab!, [want.token]));
        actual.push(logprobs[0]!);
        exact.push(want.logprob);
        naive.push(sampleRef(logits, GREEDY, Math.fround).logprob);
      }
      assertAsAccurateAs(actual, naive, exact);
    });

    await t.step("greedy takes the lowest id of equals, wherever they lie", async () => {
      const places = [[0, 1], [3, 4], [255, 1024], [1023, 1024], [1500, 1501, 2999], [2999], [1500, 264000]];
      for (const at of places) {
        const logits = new Float32Array(Math.max(3000, at.at(-1)! + 1)).fill(-1);
        for (const i of at) logits[i] = 2;
        const { choices } = await run(gpu, logits, [GREEDY, { ...GREEDY, topK: 5, topP: 0.5, minP: 0.5 }]);
        assertEquals(choices, [at[0]!, at[0]!]);
      }
    });

    for (const vocab of [1, 7, 8192, 128256]) {
      await t.step(`chooses as its twin does from ${vocab}, for many combinations of options`, async () => {
        for (const { logits, cases } of combinations.get(vocab)!) await assertChoices(gpu, logits, cases);
      });
    }

    await t.step("keeps exactly the tokens that its twin keeps", async () => {
      for (const { logits, cases } of [...telling(), tellingOfMany()]) await assertChoices(gpu, logits, cases);
    });

    await t.step("counts both zeros as equals", async () => {
      const logits = Float32Array.of(1, -0, 0, -0, 0, -1), hot = { ...GREEDY, temperature: 9, topK: 2, seed: 27 };
      const { choices } = await run(gpu, logits, Array.from({ length: 120 }, (_, step) => ({ ...hot, step })));
      assertEquals([...new Set(choices)].sort(), [0, 1, 2, 3, 4]);
    });

    await t.step("draws by its twin's noise, to the digits that tell", async () => {
      for (const { logits, cases } of narrow()) await assertChoices(gpu, logits, cases);
    });

    await t.step("penalizes tokens seen, adds the bias, and bans", async () => {
      const vocab = 3001, rng = new Rng(15), logits = modelLike(vocab, 16, false);
      const order = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]!);
      const bias = new Float32Array(vocab).map(() => 2 * rng.normal());
      for (let i = 0; i < vocab; i += 3) bias[i] = -Infinity;
      const cases: SampleCase[] = [];
      for (let step = 0; step < 24; step++) {
        const seen = new Set([...order.slice(0, step), ...order.slice(-20), 0, 31, 32, vocab - 1]);
        cases.push({
          ...GREEDY,
          temperature: [0, 0.7, 3][step % 3]!,
          topP: [1, 0.9][step % 2]!,
          repetitionPenalty: [1.3, 0.5, 100][rng.below(3)]!,
          seen,
          bias: step % 4 < 2 ? bias : undefined,
          step,
        });
      }
      await assertChoices(gpu, logits, cases);
      const { choices, logprobs } = await run(gpu, logits, cases);
      const exact = cases.map((options) => sampleRef(logits, options));
      const naive = cases.map((options) => sampleRef(logits, options, Math.fround));
      const pick = (all: { logprob: number }[]) => all.map(({ logprob }) => logprob);
      assertAsAccurateAs(logprobs, pick(naive), pick(exact));
      assert(choices.every((id, i) => !cases[i]!.bias || id % 3 !== 0), "a banned token came out");
    });

    await t.step("remembers what it chose", async () => {
      const logits = Float32Array.of(4, 3.9, 3.8, -1, -1, -1),
        steps = [0, 1, 2].map((step) => ({
          ...GREEDY,
          repetitionPenalty: 2,
          step,
        }));
      // `run` submits four and more at once, with one `seen` for all
      assertEquals((await run(gpu, logits, [...steps, { ...steps[0]!, step: 3 }])).choices, [0, 1, 2, 0]);
    });

    await t.step("draws equal logits evenly, and truncation keeps equals together", async () => {
      const logits = new Float32Array(40), draws = 1200;
      const cases = Array.from({ length: draws }, (_, step) => ({ ...GREEDY, temperature: 0.8, seed: 17, step }));
      const flat = new Array<number>(40).fill(1 / 40);
      assertDistribution(countOf((await run(gpu, logits, cases)).choices, 40), flat);
      const cut = cases.map((options) => ({ ...options, topK: 2, topP: 0.1, minP: 1 }));
      assertDistribution(countOf((await run(gpu, logits, cut.slice(0, 400))).choices, 40), flat);
    });

    await t.step("draws from softmax(logits / temperature)", async () => {
      const logits = [2, 1.5, 0, -1, -0.5, 1, -3, 0.25, -6, 1.75];
      for (const temperature of [0.5, 1, 3]) {
        const cases = Array.from({ length: 3000 }, (_, step) => ({ ...GREEDY, temperature, seed: 18, step }));
        const { choices } = await run(gpu, Float32Array.from(logits), cases);
        assertDistribution(countOf(choices, logits.length), softmax(logits, temperature));
      }
    });

    await t.step("repeats itself for a seed, and not for another", async () => {
      const logits = modelLike(5000, 19, false).map((x) => x / 10),
        draw = async (seed: number) => {
          const cases = Array.from(
            { length: 20 },
            (_, step) => ({ ...GREEDY, temperature: 1, topP: 0.99, seed, step }),
          );
          return (await run(gpu, logits, cases)).choices;
        };
      const [first, again, other] = [await draw(20), await draw(20), await draw(21)];
      assertEquals(first, again);
      assert(first.filter((id, i) => id === other[i]).length < 4);
      assert(new Set(first).size > 10);
    });

    await t.step("bears infinite and huge logits and extreme temperatures, without NaN", async () => {
      const banned = new Float32Array(2000).fill(-Infinity), one = banned.slice(), huge = new Float32Array(2000);
      one[1234] = -5;
      huge.fill(-3e38, 500).fill(3e38, 777, 778);
      const infinite = huge.slice();
      infinite[42] = Infinity;
      const hot = { ...GREEDY, temperature: 1 },
        cases = [
          GREEDY,
          hot,
          { ...hot, topK: 3, topP: 0.5, minP: 0.1 },
          { ...hot, temperature: 1e-30, topP: 0.9 },
          { ...hot, temperature: 1e38, topK: 1, topP: 0.9 },
          { ...hot, temperature: 1e-6, minP: 0.9, repetitionPenalty: 1e-3, seen: new Set([777, 42, 1234]) },
        ];
      for (const [logits, token] of [[banned, 0], [one, 1234], [huge, 777], [infinite, 42]] as const) {
        for (const [i, options] of cases.entries()) {
          const { choices, logprobs } = await run(gpu, logits, [options]);
          assertEquals(choices, [token], `case ${i}`);
          assert(logprobs[0]! <= 0, `log-probability ${logprobs[0]} in case ${i}`);
        }
      }
    });

    await t.step("draws what is at temperature 1e38 as good as even", async () => {
      const cases = Array.from({ length: 600 }, (_, step) => ({ ...GREEDY, temperature: 1e38, seed: 22, step }));
      const { choices } = await run(gpu, Float32Array.from({ length: 8 }, (_, i) => 10 * i), cases);
      assertDistribution(countOf(choices, 8), new Array<number>(8).fill(1 / 8));
    });

    await t.step("rejects wrong shapes and places", async () => {
      const op = await Sample.create(gpu), x = gpu.alloc("x", "f32", [1, 8]);
      const io = { logits: x, seen: x, partials: x, sums: x, state: x, tokens: x, record: x };
      const at = { seed: 0, step: 0 };
      assertThrows(() => op.encode(gpu.commands(), io, GREEDY, at), TypeError, "'seen' must have shape [1]");
      const { seen, partials, sums, state, record } = sampleShapes(8);
      const right = {
        logits: x,
        seen: gpu.alloc("seen", "u32", seen),
        partials: gpu.alloc("partials", "f32", partials),
        sums: gpu.alloc("sums", "f32", sums),
        state: gpu.alloc("state", "u32", state),
        record: gpu.alloc("record", "u32", record),
        tokens: gpu.alloc("next", "u32", [2]),
      };
      assertThrows(() => op.encode(gpu.commands(), { ...right, bias: x }, GREEDY, at), TypeError, "'bias' must");
      assertThrows(
        () => op.encode(gpu.commands(), right, GREEDY, { ...at, index: 2 }),
        RangeError,
        "into place 2 of 'next'",
      );
    });
  }));

Deno.test("sampleRef() truncates as by hand, one option after the other", () => {
  const logits = Float32Array.from([0.4, 0.1, 0.3, 0.15, 0.05], Math.log), hot = { ...GREEDY, temperature: 1 };
  const kept = (options: Partial<SampleCase>) => sampleRef(logits, { ...hot, ...options }).kept;
  assertEquals(kept({}), [0, 2, 3, 1, 4]);
  assertEquals(kept({ topK: 2 }), [0, 2]);
  assertEquals(kept({ topP: 0.39 }), [0]);
  assertEquals(kept({ topP: 0.41 }), [0, 2]);
  assertEquals(kept({ topP: 0.84 }), [0, 2, 3]);
  assertEquals(kept({ topK: 2, topP: 0.56 }), [0], "topP counts what topK left: 0.4 / 0.7");
  assertEquals(kept({ topK: 2, topP: 0.58 }), [0, 2]);
  assertEquals(kept({ minP: 0.3 }), [0, 2, 3]);
  assertEquals(kept({ temperature: 0.5, minP: 0.3 }), [0, 2], "squared: 0.16, 0.01, 0.09, 0.0225");
  assertEquals(kept({ temperature: 0.5, topP: 0.56 }), [0]);
  const equals = Float32Array.of(1, 2, 2, 2, 0);
  assertEquals(sampleRef(equals, { ...hot, topK: 1 }).kept, [1, 2, 3]);
  assertEquals(sampleRef(equals, { ...hot, topP: 0.01 }).kept, [1, 2, 3]);
  assertEquals(sampleRef(equals, { ...hot, minP: 1 }).kept, [1, 2, 3]);
});

Deno.test("sampleRef() penalizes, biases and scores as by hand", () => {
  const logits = Float32Array.of(2, -1, 0.5), options = { ...GREEDY, repetitionPenalty: 2, seen: new Set([0, 1]) };
  const { token, logprob } = sampleRef(logits, { ...options, bias: Float32Array.of(0, 3.5, 0) }); // 1, 1.5, 0.5
  assertEquals(token, 1);
  assertAlmostEquals(logprob, -Math.log(1 + Math.exp(-0.5) + Math.exp(-1)), 1e-7);
});

Deno.test("gumbelNoise() makes draws that follow softmax, also where tokens are rare, and steps independent", () => {
  const logits = [0, -1, -2, -4, -6, -8, 0.5, 0.25], draws = 80000, choices: number[] = [];
  for (let step = 0; step < draws; step++) {
    let best = -Infinity, token = 0;
    logits.forEach((y, i) => {
      const draw = y + gumbelNoise(i, 23, step);
      if (draw > best) [token, best] = [i, draw];
    });
    choices.push(token);
  }
  const p = softmax(logits);
  assertDistribution(countOf(choices, 8), p);
  const pairs = new Array<number>(64).fill(0);
  for (let i = 0; i + 1 < draws; i += 2) pairs[8 * choices[i]! + choices[i + 1]!]!++;
  assertDistribution(pairs, p.flatMap((a) => p.map((b) => a * b)));
  // Seeds that follow each other are as good as any.
  const bySeed = Array.from({ length: 30000 }, (_, seed) => {
    const noise = logits.map((y, i) => y + gumbelNoise(i, seed, 0));
    return noise.indexOf(Math.max(...noise));
  });
  assertDistribution(countOf(bySeed, 8), p);
});

Deno.test("gumbelNoise() has the moments of Gumbel noise over a large vocabulary", () => {
  const count = 400000, noise = Float64Array.from({ length: count }, (_, i) => gumbelNoise(i, 24, 5));
  const mean = noise.reduce((a, b) => a + b) / count, euler = 0.5772156649015329;
  const variance = noise.reduce((sum, x) => sum + (x - mean) ** 2, 0) / count, sigma = Math.PI / Math.sqrt(6);
  assertAlmostEquals(mean, euler, 4 * sigma / Math.sqrt(count));
  assertAlmostEquals(variance, sigma ** 2, 4 * sigma ** 2 * Math.sqrt(4.4 / count));
});
