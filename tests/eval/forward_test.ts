/** The evaluation pass on a small random model, against the same pass in f64 written out. */
import { assert, assertAlmostEquals, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { BASELINES } from "../../src/eval/baselines.ts";
import { beforeRope, functionCodec, noiseOf, type Quantize, rotate, roundingCodec } from "../../src/eval/codecs.ts";
import { type CacheCodec, type Far, Forward } from "../../src/eval/forward.ts";
import { readNumbers, writeNumbers } from "../../src/eval/numbers.ts";
import { Scorer } from "../../src/eval/scorer.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { cacheRoundRef } from "../../src/ref/cache_round.ts";
import { relativeError } from "../_assert.ts";
import { openEngine, randomLlama, type SmallLlama, VOCAB, writeFolder } from "../_llama.ts";
import { type Left, logProbabilities, mixedRef } from "./_mixed.ts";

const SHAPE = { hidden: 96, ffn: 80, qHeads: 4, kvHeads: 2, headDim: 64, context: 128 };
const TOKENS = 90, NEAR = { window: 11, sinks: 3 };

/** What a baseline leaves, by its reference. */
const leftBy = (name: string): Left => {
  const baseline = BASELINES.find((b) => b.name === name)!;
  return (x, side, tokens) => cacheRoundRef(x, { tokens, headDim: SHAPE.headDim }, baseline[side]);
};

interface Setting {
  gpu: Gpu;
  model: SmallLlama;
  forward: Forward;
  scorer: Scorer;
  ids: number[];
}

/** Compares a pass with the reference: losses, likeliest tokens, and divergences from the exact pass. */
async function compare({ model, forward, scorer, ids }: Setting, far: Far, left: Left | undefined, from = 0) {
  using exact = forward.allocRows(), kept = forward.allocRows(), mixed = forward.allocRows();
  forward.begin(ids);
  await forward.run(exact, { far: "exact" });
  const targets = ids.slice(from + 1);
  forward.copyTail(exact, from, kept);
  await forward.run(mixed, { far, from });
  scorer.begin(kept);
  const judged = await scorer.judge(mixed, targets, { compare: true });
  const truth = mixedRef(model, ids, { ...NEAR, from: Infinity }).map(logProbabilities);
  const wanted = mixedRef(model, ids, { ...NEAR, from }, left).map(logProbabilities);
  const kl = targets.map((_, r) =>
    truth[from + r]!.reduce((sum, p, i) => sum + Math.exp(p) * (p - wanted[from + r]![i]!), 0)
  );
  const nll = targets.map((id, r) => -wanted[from + r]![id]!),
    mean = (x: ArrayLike<number>) => Array.from(x).reduce((a, b) => a + b, 0) / x.length;
  assert(relativeError(judged.nll, nll) < 2e-3, `losses are off by ${relativeError(judged.nll, nll)}`);
  assert(Math.abs(mean(judged.kl) - mean(kl)) < 0.02 * mean(kl) + 1e-6, `mean KL ${mean(judged.kl)} for ${mean(kl)}`);
  const likeliest = targets.map((_, r) => wanted[from + r]!.indexOf(Math.max(...wanted[from + r]!)));
  const differing = likeliest.filter((id, r) => id !== judged.top[r]).length;
  assert(differing <= 2, `${differing} likeliest tokens differ`);
  return { kl: mean(kl), judged };
}

Deno.test("Forward", async (t) => {
  const folder = await Deno.makeTempDir(), model = randomLlama(SHAPE, 3), rng = new Rng(9);
  await writeFolder(folder, model);
  using gpu = await Gpu.create();
  using opened = await openEngine(gpu, folder, 128);
  using forward = await Forward.create(opened.engine, 128, NEAR);
  using scorer = await Scorer.create(forward);
  const ids = Array.from({ length: TOKENS }, () => rng.below(VOCAB)), setting = { gpu, model, forward, scorer, ids };

  await t.step("sees everything where the far is exact, and in two parts the same", async () => {
    await compare(setting, "exact", (x) => x);
    const copy: CacheCodec = {
      quantize(_, exact, left) {
        const commands = gpu.commands();
        commands.copy(exact.keys, left.keys);
        commands.copy(exact.values, left.values);
        commands.submit();
        return Promise.resolve();
      },
    };
    const { judged } = await compare(setting, copy, (x) => x);
    assert(Math.max(...judged.kl) < 1e-5, "an exact cache through the codec's path must be the exact cache");
  });
  await t.step("judges a text in parts as at once", async () => {
    using parts = await Scorer.create(forward, 32);
    const whole = await compare(setting, "dropped", undefined);
    const again = await compare({ ...setting, scorer: parts }, "dropped", undefined);
    // Products of fewer tokens may be made in other tiles, whose sums round otherwise.
    again.judged.kl.forEach((kl, i) => assertAlmostEquals(kl, whole.judged.kl[i]!, 1e-6));
    assertEquals(again.judged.kl.length, whole.judged.kl.length);
  });
  await t.step("drops the far", async () => {
    const { kl } = await compare(setting, "dropped", undefined);
    assert(kl > 0.01, `the far must matter to this model: KL ${kl}`);
  });
  for (const name of ["q8_0", "q4_0", "kivi2", "turbo2", "turbo1", "q4_0+hadamard"]) {
    await t.step(`sees what ${name} leaves of the far`, async () => {
      const codec = await roundingCodec(gpu, SHAPE.headDim, BASELINES.find((b) => b.name === name)!);
      await compare(setting, codec, leftBy(name));
    });
  }
  await t.step("sees the codec from a token on, and before it the exact cache", async () => {
    const codec = await roundingCodec(gpu, SHAPE.headDim, BASELINES.find((b) => b.name === "turbo1")!);
    for (const from of [1, 40, 88]) await compare(setting, codec, leftBy("turbo1"), from);
    await compare(setting, "dropped", undefined, 50);
  });
  await t.step("gives functions keys before RoPE", async () => {
    const coarse: Quantize = (x) => x.forEach((v, i) => x[i] = Math.round(2 * v) / 2);
    const codec = functionCodec(gpu, { keys: beforeRope(opened.frequencies, coarse), values: coarse });
    await compare(setting, codec, (x, side, tokens) => {
      const y = Float32Array.from(x), dims = { tokens, kvHeads: SHAPE.kvHeads, headDim: SHAPE.headDim };
      if (side === "keys") rotate(y, dims, model.frequencies, -1);
      coarse(y, dims, 0);
      if (side === "keys") rotate(y, dims, model.frequencies, 1);
      return Float64Array.from(y);
    });
  });
  await t.step("measures a layer's errors", async () => {
    const codec = await roundingCodec(gpu, SHAPE.headDim, BASELINES.find((b) => b.name === "turbo2")!);
    using x = forward.allocRows();
    const errors: Awaited<ReturnType<Forward["measure"]>>[] = [];
    forward.begin(ids);
    const visit = async (layer: number) => {
      const keys = await readNumbers(gpu, forward.pair(layer).keys);
      const left = leftBy("turbo2")(Float64Array.from(keys), "keys", TOKENS), half = keys.length / 2;
      const nmse = [0, half].reduce(
        (sum, at) => sum + relativeError(left.subarray(at, at + half), keys.subarray(at, at + half)) ** 2 / 2,
        0,
      );
      errors.push(await forward.measure(layer, codec));
      assertAlmostEquals(errors.at(-1)!.keyNmse, nmse, 1e-3);
    };
    await forward.run(x, { far: "exact", visit });
    assertEquals(errors.length, 2);
    for (const { valueNmse, outputError } of errors) {
      assert(
        valueNmse > 0.08 && valueNmse < 0.16 && outputError > 0.02 && outputError < 0.5,
        `${valueNmse} ${outputError}`,
      );
    }
  });
  await t.step("makes noise of a codec's size", async () => {
    const codec = await roundingCodec(gpu, SHAPE.headDim, BASELINES.find((b) => b.name === "turbo2")!);
    const shape = [2, 64, 32],
      pair = (label: string) => ({ keys: gpu.alloc(label, "u32", shape), values: gpu.alloc(label, "u32", shape) });
    const [exact, left, noisy] = [pair("exact"), pair("left"), pair("noisy")],
      sample = Float32Array.from({ length: 8192 }, () => rng.normal());
    writeNumbers(gpu, exact.keys, sample);
    writeNumbers(gpu, exact.values, sample);
    await codec.quantize(0, exact, left);
    await noiseOf(gpu, codec).quantize(0, exact, noisy);
    const error = async (of: typeof left) => relativeError(await readNumbers(gpu, of.keys), sample) ** 2;
    const [own, noise] = [await error(left), await error(noisy)];
    assert(
      Math.abs(noise / own - 1) < 0.1 &&
        relativeError(await readNumbers(gpu, left.keys), await readNumbers(gpu, noisy.keys)) > 0.3,
    );
  });
  await t.step("refuses a text that is too long, and stops when aborted", async () => {
    assertThrows(() => forward.begin(Array(129).fill(0)), RangeError, "room for 128");
    using x = forward.allocRows();
    forward.begin(ids);
    const abort = new AbortController();
    await assertRejects(
      () => forward.run(x, { far: "exact", signal: abort.signal, onLayer: () => abort.abort() }),
      DOMException,
      "abort",
    );
  });
});
