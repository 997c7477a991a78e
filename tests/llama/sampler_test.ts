import { assert, assertAlmostEquals, assertEquals, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import { Gpu } from "../../src/gpu/gpu.ts";
import { Sampler, type SamplingOptions } from "../../src/llama/sampler.ts";

/** Tokens and log-probabilities of `steps` choices from the same logits, after `prompt`. */
async function generate(
  gpu: Gpu,
  logits: readonly number[],
  options: SamplingOptions,
  steps: number,
  prompt: readonly number[] = [],
): Promise<{ tokens: number[]; logprobs: number[] }> {
  using sampler = await Sampler.create(gpu, logits.length, options);
  using logitsT = gpu.upload("logits", "f32", [1, logits.length], Float32Array.from(logits));
  using next = gpu.alloc("next", "u32", [1]);
  const tokens: number[] = [], logprobs: number[] = [];
  sampler.reset(prompt);
  for (let step = 0; step < steps; step++) {
    const commands = gpu.commands();
    sampler.encode(commands, logitsT, next, step);
    commands.submit();
    const record = await gpu.read(sampler.result);
    tokens.push(new Uint32Array(record)[0]!);
    logprobs.push(new Float32Array(record)[1]!);
    assertEquals((await gpu.readU32(next))[0], tokens.at(-1));
  }
  return { tokens, logprobs };
}

Deno.test("Sampler", async (t) => {
  using gpu = await Gpu.create();
  const before = gpu.bytes;

  await t.step("is greedy by default and tells log-probabilities", async () => {
    const { tokens, logprobs } = await generate(gpu, [0, 3, 1, 3], {}, 2);
    assertEquals(tokens, [1, 1]);
    for (const logprob of logprobs) {
      assertAlmostEquals(logprob, 3 - Math.log(1 + 2 * Math.exp(3) + Math.E), 1e-6);
    }
  });

  await t.step("penalizes the prompt and what it has chosen, until it is reset", async () => {
    const logits = [5, 4, 3, 0, 0, 0, 0, 0, 0], options = { repetitionPenalty: 3 };
    assertEquals((await generate(gpu, logits, options, 4, [0])).tokens, [1, 2, 0, 0]);
    assertEquals((await generate(gpu, logits, options, 3)).tokens, [0, 1, 2]);
    using sampler = await Sampler.create(gpu, 9, options);
    using logitsT = gpu.upload("logits", "f32", [1, 9], Float32Array.from(logits));
    using tokens = gpu.alloc("tokens", "u32", [4]);
    for (let round = 0; round < 2; round++) {
      sampler.reset();
      const commands = gpu.commands();
      for (let step = 0; step < 2; step++) sampler.encode(commands, logitsT, tokens, step, 2 * round + step);
      commands.submit();
    }
    assertEquals([...await gpu.readU32(tokens)], [0, 1, 0, 1]);
  });

  await t.step("adds the bias and bans", async () => {
    const logits = [5, 4, 3, 0], logitBias = { 0: -Infinity, 2: 1.5, 3: -1 };
    const { tokens, logprobs } = await generate(gpu, logits, { logitBias }, 1);
    assertEquals(tokens, [2]);
    assertAlmostEquals(logprobs[0]!, 4.5 - Math.log(Math.exp(4) + Math.exp(4.5) + Math.exp(-1)), 1e-6);
    const hot = { logitBias, temperature: 50, seed: 1 };
    assert(!(await generate(gpu, logits, hot, 60)).tokens.includes(0));
  });

  await t.step("gives equal text for equal seeds, and random seeds otherwise", async () => {
    const logits = Array.from({ length: 500 }, (_, i) => Math.sin(i)), options = { temperature: 1, topP: 0.9 };
    const [first, again, other] = [
      await generate(gpu, logits, { ...options, seed: 7 }, 12),
      await generate(gpu, logits, { ...options, seed: 7 }, 12),
      await generate(gpu, logits, { ...options, seed: 4294967295 }, 12),
    ];
    assertEquals(first, again);
    assertNotEquals(first.tokens, other.tokens);
    using a = await Sampler.create(gpu, 500, options), b = await Sampler.create(gpu, 500, options);
    assertNotEquals(a.seed, b.seed);
  });

  await t.step("truncates", async () => {
    const logits = Array.from({ length: 2000 }, (_, i) => -((i * 7) % 2000) / 100),
      likely = (tokens: number[]) => Math.max(...tokens.map((id) => (id * 7) % 2000));
    const hot = { temperature: 5, seed: 3 };
    assert(likely((await generate(gpu, logits, hot, 40)).tokens) > 100);
    assertEquals(likely((await generate(gpu, logits, { ...hot, topK: 3 }, 60)).tokens), 2);
    assert(likely((await generate(gpu, logits, { ...hot, minP: 0.99 }, 40)).tokens) <= 5);
    assert(likely((await generate(gpu, logits, { ...hot, topP: 0.01 }, 40)).tokens) <= 6);
  });

  await t.step("refuses what makes no sense, in one sentence", async () => {
    for (
      const [options, message] of [
        [{ temperature: -1 }, "temperature must be a finite number >= 0: current value is -1"],
        [{ temperature: NaN }, "temperature must be"],
        [{ temperature: Infinity }, "temperature must be"],
        [{ topK: 1.5 }, "topK must be a whole number >= 0: current value is 1.5"],
        [{ topK: -1 }, "topK must be"],
        [{ topP: 0 }, "topP must be above 0 and at most 1: current value is 0"],
        [{ topP: 1.01 }, "topP must be"],
        [{ minP: -0.1 }, "minP must be from 0 to 1"],
        [{ minP: 2 }, "minP must be"],
        [{ repetitionPenalty: 0 }, "repetitionPenalty must be a finite number above 0"],
        [{ seed: 0.5 }, "seed must be a whole number below 2^32"],
        [{ seed: 2 ** 32 }, "seed must be"],
        [{ seed: -1 }, "seed must be"],
        [{ logitBias: { 8: 1 } }, "an id of logitBias must be a token id below 8: current value is 8"],
        [{ logitBias: { "-1": 1 } }, "an id of logitBias must be"],
        [{ logitBias: { 3: NaN } }, "logitBias of token 3 must be a finite number or -Infinity"],
        [{ logitBias: { 3: Infinity } }, "logitBias of token 3 must be"],
      ] as [SamplingOptions, string][]
    ) {
      await assertRejects(() => Sampler.create(gpu, 8, options), RangeError, message);
    }
    Sampler.check({ temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 0.1, seed: 4294967295 }, 8);
    using sampler = await Sampler.create(gpu, 8);
    assertThrows(() => sampler.reset([1, 8]), RangeError, "an id below 8: current value is 8");
    assertThrows(() => sampler.reset([0.5]), RangeError, "current value is 0.5");
  });

  await t.step("frees what it allocates", () => assertEquals(gpu.bytes, before));
});
