import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { toF16Array } from "../../src/core/f16.ts";
import { Rng } from "../../src/core/rng.ts";
import { type ValueDims, valueWidths } from "../../src/core/shapes.ts";
import { type ValueArrays, ValueEncoder } from "../../src/codebook/value_encoder.ts";
import { learningRate, trainValueEncoder, ValueTrainer } from "../../src/codebook/value_encoder_train.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { adamwRef } from "../../src/ref/adamw.ts";
import { gumbelNoise } from "../../src/ref/gumbel_bits.ts";
import { gumbelBitsDecodeRef } from "../../src/ref/gumbel_bits_decode.ts";
import { drawnRows, layerNormRef } from "../../src/ref/layer_norm.ts";
import {
  softBits,
  valueForwardRef,
  valueGradientRef,
  valueLossRef,
  type ValueParameters,
  type ValueSample,
} from "../../src/ref/value_encoder.ts";
import { assertAsAccurateAs, relativeError } from "../_assert.ts";

const DIMS: ValueDims = { features: 32, bits: 2 }, BATCH = 128, SEED = 14;

/** Values [tokens][features] of a few directions, with a scale of its own for every token and channel. */
function sampleValues(tokens: number, features: number, seed: number): Float32Array {
  const mixing = new Rng(99), rank = features / 4, out = new Float32Array(tokens * features), rng = new Rng(seed);
  const basis = Float32Array.from({ length: rank * features }, () => mixing.normal());
  const channels = Float32Array.from({ length: features }, () => Math.exp(0.7 * mixing.normal()));
  for (let t = 0; t < tokens; t++) {
    const gain = Math.exp(0.4 * rng.normal()), z = Float32Array.from({ length: rank }, () => rng.normal());
    for (let f = 0; f < features; f++) {
      let x = 0.5 * rng.normal();
      for (let r = 0; r < rank; r++) x += z[r]! * basis[r * features + f]!;
      out[t * features + f] = gain * channels[f]! * x;
    }
  }
  return out;
}

/** A trainer's layer as its twin takes it: parameters, and the batch of `step`. */
async function twinOf(trainer: ValueTrainer, layer: number, values: Float32Array, step: number) {
  const { features } = DIMS, { symbols } = valueWidths(DIMS), { gpu, tensors: t } = trainer;
  const part = async (tensor: typeof t.linear1): Promise<Float64Array> => {
    const all = await gpu.readF32(tensor), each = all.length / tensor.shape[0]!;
    return Float64Array.from(all.subarray(layer * each, (layer + 1) * each));
  };
  const parameters = {
    linear1: await part(t.linear1),
    linear2: await part(t.linear2),
    codebook: await part(t.codebook),
  };
  const { scale, variance } = trainer.channels[layer]!, weight = 2 / (BATCH * features * variance);
  const rows = drawnRows(values.length / features, BATCH, SEED, step);
  const noise = gumbelNoise(BATCH * symbols, { seed: SEED, step });
  const sample = (round?: (x: number) => number): ValueSample => ({
    ...layerNormRef(values, scale, rows, weight, round),
    scale,
    noise: round ? noise.map(round) : noise,
  });
  return { parameters, sample };
}

/** Moves the gain and offset off 1 and 0, where their gradients would miss mistakes. */
async function disturb(trainer: ValueTrainer): Promise<void> {
  const { linear1 } = trainer.tensors, data = await trainer.gpu.readF32(linear1), rng = new Rng(3);
  const { folded, linear1: each } = valueWidths(DIMS);
  data.forEach((x, i) => {
    if (i % each >= folded) data[i] = x + 0.3 * rng.normal();
  });
  trainer.gpu.write(linear1, data);
}

Deno.test("the twin's gradient is that of its loss with soft bits in place of the noise's choice", () => {
  const dims = { features: 32, bits: 1 } as const, { linear1, linear2, codebook, folded, symbols } = valueWidths(dims);
  const rng = new Rng(8), tokens = 5, values = sampleValues(tokens, 32, 1), scale = new Float32Array(32).fill(0.8);
  const numbers = (count: number, size: number) => Float64Array.from({ length: count }, () => size * rng.normal());
  const parameters = { linear1: numbers(linear1, 0.3), linear2: numbers(linear2, 0.3), codebook: numbers(codebook, 1) };
  for (let f = 0; f < 32; f++) parameters.linear1[folded + f]! += 1;
  const noise = gumbelNoise(tokens * symbols, { seed: 1, step: 1 });
  const sample = { ...layerNormRef(values, scale, [0, 1, 2, 3, 4], 0.01), scale, noise };
  const forward = valueForwardRef(parameters, sample, dims), base = softBits(forward.logits, noise);
  const gradient = valueGradientRef(parameters, sample, dims, forward);
  const loss = (p: ValueParameters) => {
    const straight = (logits: Float64Array) => softBits(logits, noise).map((x, i) => forward.bits[i]! + x - base[i]!);
    return valueLossRef(valueForwardRef(p, sample, dims, undefined, straight).v, sample);
  };
  const picks = {
    linear1: [0, 700, folded - 3, folded + 4, linear1 - 5],
    linear2: [1, 900, linear2 - 2],
    codebook: [2, 500],
  };
  for (const name of ["linear1", "linear2", "codebook"] as const) {
    for (const i of picks[name]) {
      const nudged = (by: number) => {
        const moved = parameters[name].slice();
        moved[i]! += by;
        return loss({ ...parameters, [name]: moved });
      };
      const slope = (nudged(1e-4) - nudged(-1e-4)) / 2e-4, analytic = gradient[name][i]!;
      assert(Math.abs(analytic) > 1e-9, `${name}[${i}] has no gradient to compare`);
      assertAlmostEquals(analytic, slope, 1e-6 * Math.abs(slope) + 1e-8, `${name}[${i}]`);
    }
  }
});

Deno.test("ValueTrainer", async (t) => {
  using gpu = await Gpu.create();
  const values = [sampleValues(500, 32, 21), sampleValues(300, 32, 22)];
  const tensors = values.map((v, i) => gpu.upload(`values ${i}`, "f32", [v.length / 32, 32], v));
  using trainer = await ValueTrainer.create(gpu, tensors, DIMS, BATCH, SEED);
  await disturb(trainer);

  await t.step("measures channels", () => {
    trainer.channels.forEach(({ scale, variance }, layer) => {
      const v = values[layer]!, rows = v.length / 32, mean = v.reduce((a, b) => a + b) / v.length;
      assertAlmostEquals(variance, v.reduce((a, b) => a + (b - mean) ** 2, 0) / v.length, 1e-4 * variance);
      for (const f of [0, 31]) {
        let sum = 0;
        for (let t = 0; t < rows; t++) sum += Math.abs(v[32 * t + f]!);
        assertAlmostEquals(scale[f]!, sum / rows + 1e-6, 1e-5 * scale[f]!);
      }
    });
  });

  await t.step("takes one step as its twin does", async () => {
    const step = 7, rate = 1e-3;
    const layers = await Promise.all([0, 1].map((layer) => twinOf(trainer, layer, values[layer]!, step)));
    const commands = gpu.commands();
    trainer.encode(commands, step, rate);
    commands.submit();
    const slabs = await gpu.readF32(trainer.tensors.gradients), count = trainer.tensors.parameters.shape[0]!;
    const total = new Float64Array(count), losses = await trainer.losses();
    slabs.forEach((g, i) => total[i % count]! += g);
    const { linear1, linear2, codebook } = valueWidths(DIMS), sizes = { linear1, linear2, codebook };
    for (const [layer, { parameters, sample }] of layers.entries()) {
      const exact = valueForwardRef(parameters, sample(), DIMS),
        naive = valueForwardRef(parameters, sample(Math.fround), DIMS, Math.fround);
      assert(exact.margins.every((margin) => margin > 1e-4), "a choice is too close to compare: take another seed");
      const want = valueGradientRef(parameters, sample(), DIMS, exact);
      const rival = valueGradientRef(parameters, sample(Math.fround), DIMS, naive, Math.fround);
      let at = 0;
      for (const name of ["linear1", "linear2", "codebook"] as const) {
        const part = total.subarray(at + layer * sizes[name], at + (layer + 1) * sizes[name]);
        assertAsAccurateAs(part, rival[name], want[name], 2 ** -19); // noise: see gumbel_bits_test
        at += 2 * sizes[name];
        const after = (await gpu.readF32(trainer.tensors[name])).subarray(
          layer * sizes[name],
          (layer + 1) * sizes[name],
        );
        const state = {
          parameters: parameters[name],
          mean: new Float64Array(after.length),
          square: new Float64Array(after.length),
        };
        adamwRef(state, part, { step: step + 1, rate, decay: 0.1, beta1: 0.9, beta2: 0.95 });
        assert(relativeError(after, state.parameters) < 1e-6);
      }
      const loss = valueLossRef(exact.v, sample());
      assertAlmostEquals(losses[layer]!, loss, 1e-4 * loss);
    }
  });
  tensors.forEach((tensor) => tensor[Symbol.dispose]());
});

Deno.test("trainValueEncoder()", async (t) => {
  using gpu = await Gpu.create();
  const features = 32,
    dims = { features, bits: 2 } as const,
    options = { bits: 2, steps: 250, batch: 256, seed: 2 } as const;
  using first = gpu.upload("values 0", "f32", [2048, features], sampleValues(2048, features, 31));
  using second = gpu.upload("values 1", "f32", [1500, features], sampleValues(1500, features, 32));
  const heldOut = sampleValues(301, features, 33);
  using values = gpu.upload("held out", "f32", [301, features], heldOut);
  const seen: number[] = [], losses: number[] = [];
  using encoder = await trainValueEncoder(gpu, [first, second], {
    ...options,
    onProgress: ({ step, losses: [loss] }) => (seen.push(step), losses.push(loss!)),
  });

  await t.step("reports its way", () => {
    assertEquals(seen, [50, 100, 150, 200, 250]);
    assert(losses.at(-1)! < 0.8 * losses[0]!, `losses ${losses}`);
  });
  await t.step("brings held-out error down, and not to nothing", async () => {
    using start = await trainValueEncoder(gpu, [first], { ...options, steps: 0 });
    const before = await start.distortion(0, values), after = await encoder.distortion(0, values);
    assert(before > 1.5 && before < 2.4, `untrained NMSE ${before}`);
    assert(after > 0.2 && after < 0.5, `trained NMSE ${after}`);
  });
  await t.step("trains a layer alike alone and beside others, and otherwise with another seed", async () => {
    using alone = await trainValueEncoder(gpu, [second], { ...options, steps: 20 });
    using beside = await trainValueEncoder(gpu, [first, second], { ...options, steps: 20 });
    using other = await trainValueEncoder(gpu, [second], { ...options, steps: 20, seed: 3 });
    assertEquals(beside.arrays(1), alone.arrays(0));
    assert(relativeError(other.arrays(0).codebook.data, alone.arrays(0).codebook.data) > 0.5);
  });
  await t.step("keeps each layer's best of several seeds, and the same again", async () => {
    const few = { ...options, steps: 40 }, seen: number[] = [];
    const onProgress = ({ step, steps }: { step: number; steps: number }) => seen.push(step / steps);
    using best = await trainValueEncoder(gpu, [first, second], { ...few, seeds: 3, onProgress });
    using again = await trainValueEncoder(gpu, [second], { ...few, seeds: 3 });
    using single = await trainValueEncoder(gpu, [first, second], few);
    assertEquals(again.arrays(0), best.arrays(1));
    assertEquals(seen, [1 / 3, 2 / 3, 1]);
    const of = (one: ValueEncoder) =>
      Promise.all([first, second].map((tensor, layer) => one.distortion(layer, tensor)));
    const [kept, alone] = [await of(best), await of(single)];
    kept.forEach((nmse, layer) => assert(nmse <= alone[layer]!, `layer ${layer}: ${nmse} after ${alone[layer]}`));
    assert(kept.some((nmse, layer) => nmse < alone[layer]!), `no seed is better than the first: ${kept}`);
  });
  await t.step("decodes what it encodes, in chunks as at once", async () => {
    using small = await ValueEncoder.fromArrays(gpu, [encoder.arrays(0)], { chunk: 128 });
    const codes = [];
    for (const each of [encoder, small]) {
      const { words, scales } = each.allocCode(301);
      using out = gpu.alloc("out", "f32", [301, features]);
      const commands = gpu.commands();
      each.encode(commands, 0, values, { words, scales });
      each.decode(commands, 0, { words, scales }, out);
      commands.submit();
      const code = { words: await gpu.readU32(words), scales: new Uint16Array(await gpu.read(scales)) };
      const decoded = await gpu.readF32(out), error = relativeError(decoded, heldOut) ** 2;
      assertAlmostEquals(error, await each.distortion(0, values), 1e-5);
      const { codebook, scale } = each.arrays(0);
      const want = gumbelBitsDecodeRef(
        code.words,
        code.scales,
        codebook.data as Float32Array,
        scale.data as Float32Array,
      );
      assert(relativeError(decoded, want) < 1e-6);
      codes.push(code);
      words[Symbol.dispose]();
      scales[Symbol.dispose]();
    }
    assertEquals(codes[0]!.words.length, 301 * features * dims.bits / 32); // the bits claimed, and no more
    assertEquals(codes[1], codes[0]);
  });
  await t.step("takes arrays in half precision, near enough", async () => {
    const arrays = Object.fromEntries(
      Object.entries(encoder.arrays(0)).map(([name, { shape, data }]) => [name, { shape, data: toF16Array(data) }]),
    ) as unknown as ValueArrays;
    using half = await ValueEncoder.fromArrays(gpu, [arrays]);
    const exact = await encoder.distortion(0, values), rounded = await half.distortion(0, values);
    assert(Math.abs(rounded - exact) < 0.01 * exact && rounded !== exact, `${rounded} and ${exact}`);
  });
  await t.step("stops when told, with the reason", async () => {
    const stop = new AbortController();
    const onProgress = () => stop.abort(new Error("enough"));
    const run = () => trainValueEncoder(gpu, [first], { ...options, onProgress, signal: stop.signal });
    await assertRejects(run, Error, "enough");
  });
  await t.step("rejects what does not fit, by name", async () => {
    const odd = gpu.alloc("odd", "f32", [64, 48]), zeros = gpu.alloc("zeros", "f32", [64, 32]);
    await assertRejects(() => trainValueEncoder(gpu, [odd], options), RangeError, "multiple of 32: it is 48");
    await assertRejects(() => trainValueEncoder(gpu, [first, odd], options), TypeError, '"odd" of layer 1 has [64,48]');
    await assertRejects(() => trainValueEncoder(gpu, [zeros], options), RangeError, '"zeros" must vary');
    const arrays = encoder.arrays(0), broken = { ...arrays, "linear2.bias": arrays["linear1.weight"] };
    await assertRejects(
      () => ValueEncoder.fromArrays(gpu, [broken]),
      TypeError,
      "'linear2.bias' must have shape [128]",
    );
    await assertRejects(() => ValueEncoder.fromArrays(gpu, [arrays], { chunk: 100 }), RangeError, "multiple of 128");
  });
});

Deno.test("learningRate() warms up in a line and falls as a cosine to nothing", () => {
  assertEquals([0, 49, 99, 100].map((step) => learningRate(step, 3000)), [1e-5, 5e-4, 1e-3, 1e-3]);
  assertAlmostEquals(learningRate(1550, 3000), 5e-4, 1e-12);
  assert(learningRate(2999, 3000) < 1e-8);
});
