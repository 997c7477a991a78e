import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { fromF16Array } from "../../src/core/f16.ts";
import { Rng } from "../../src/core/rng.ts";
import { ropeTable, ropeTableRows } from "../../src/core/rope_table.ts";
import { type AttnDims, attnStepShapes, ropeStoreShapes } from "../../src/core/shapes.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { AttnStep, attnStepBytes, attnStepSplits, chooseAttnStep } from "../../src/kernels/attn_step.ts";
import { RopeStore } from "../../src/kernels/rope_store.ts";
import { attnMergeRef } from "../../src/ref/attn_merge.ts";
import { attnStepRef } from "../../src/ref/attn_step.ts";
import type { Round } from "../../src/ref/round.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { onEachText, poisoned } from "../_gpu.ts";
import { type AttnSample, attnSample } from "./_attn.ts";

interface Case extends Omit<AttnDims, "tokens" | "capacity"> {
  readonly position: number;
  /** With these, slots of `gap` tokens from `hole` on are of none, and the newest token's is `slot`. */
  readonly slot?: number;
  readonly hole?: number;
  readonly gap?: number;
  readonly splits?: number;
  readonly isWhole?: boolean;
  readonly sharpness?: number;
}

/** Every head dimension and ratio once; lengths within a round, at its end, and of several splits; gaps anywhere. */
const CASES: Case[] = [
  { headDim: 128, qHeads: 8, kvHeads: 2, position: 0, isWhole: true },
  { headDim: 128, qHeads: 4, kvHeads: 1, position: 1024 },
  { headDim: 128, qHeads: 4, kvHeads: 1, position: 1024, sharpness: 300 },
  { headDim: 64, qHeads: 14, kvHeads: 2, position: 255, splits: 1, isWhole: true },
  { headDim: 64, qHeads: 2, kvHeads: 2, position: 2, splits: 2 },
  { headDim: 64, qHeads: 8, kvHeads: 4, position: 99, slot: 40, hole: 41, gap: 20 },
  { headDim: 64, qHeads: 8, kvHeads: 4, position: 99, slot: 119, hole: 4, gap: 20, splits: 5 },
  { headDim: 40, qHeads: 5, kvHeads: 1, position: 257, splits: 9 },
  { headDim: 96, qHeads: 6, kvHeads: 1, position: 130 },
  { headDim: 256, qHeads: 8, kvHeads: 1, position: 257 },
];

const frequencies = (headDim: number): Float64Array =>
  Float64Array.from({ length: headDim / 2 }, (_, d) => Math.fround(500000 ** (-2 * d / headDim)));

const qkvOf = ({ qHeads, kvHeads, headDim, sharpness = 1 }: Case): Float32Array => {
  const qkv = normals(new Rng(5), (qHeads + 2 * kvHeads) * headDim);
  return qkv.map((x, i) => i < qHeads * headDim ? x * sharpness : x);
};

/** A cache that is NaN where nothing may read it: at and past the new token's slot, and in the gap. */
function sampleOf(it: Case, capacity: number): AttnSample {
  const { position, slot = position, hole = capacity, gap = 0, kvHeads, headDim } = it;
  const sample = attnSample({ ...it, tokens: 1, capacity }, 0, position + 1 + gap), NAN = 0x7e00;
  for (const bits of [sample.keyBits, sample.valueBits]) {
    for (let k = 0; k < kvHeads; k++) {
      const at = (row: number): number => (k * capacity + row) * headDim;
      bits.fill(NAN, at(slot), at(slot + 1)).fill(NAN, at(hole), at(Math.min(hole + gap, capacity)));
    }
  }
  return { ...sample, keys: fromF16Array(sample.keyBits), values: fromF16Array(sample.valueBits) };
}

/** Runs one case. */
async function run(gpu: Gpu, it: Case, { keyBits, valueBits }: AttnSample, capacity: number, isFallback = false) {
  const { position, slot = position, headDim, qHeads, kvHeads } = it, tableRows = ropeTableRows(position + 1);
  const variant = chooseAttnStep(it, { limits: gpu.limits, isFallback });
  const op = await AttnStep.create(gpu, it, { variant, hasGap: it.gap !== undefined });
  const splits = it.splits ?? op.splits(position + 1), dims = { qHeads, kvHeads, headDim, capacity, tableRows };
  const shapes = attnStepShapes({ ...dims, states: splits }), table = ropeTable(frequencies(headDim), position + 1);
  using qkv = gpu.upload("qkv", "f32", shapes.qkv, qkvOf(it)), q = poisoned(gpu, "q", shapes.q);
  using turns = gpu.upload("rope table", "f32", shapes.ropeTable, table);
  using keys = gpu.upload("keys", "u32", shapes.keys, keyBits);
  using values = gpu.upload("values", "u32", shapes.values, valueBits);
  using partialO = poisoned(gpu, "partial_o", shapes.partialO),
    partialMd = poisoned(gpu, "partial_md", shapes.partialMd);
  const commands = gpu.commands();
  op.encode(commands, { qkv, ropeTable: turns, q, keys, values, partialO, partialMd }, { ...it, splits });
  commands.submit();

  using q2 = poisoned(gpu, "q", ropeStoreShapes({ ...dims, tokens: 1 }).q);
  using keys2 = gpu.upload("keys", "u32", shapes.keys, keyBits);
  using values2 = gpu.upload("values", "u32", shapes.values, valueBits);
  const store = await RopeStore.create(gpu, it), stored = gpu.commands();
  const io = { qkv, ropeTable: turns, q: q2, keys: keys2, values: values2 };
  store.encode(stored, io, { tokens: 1, position, slot });
  stored.submit();

  const o = await gpu.readF32(partialO), md = await gpu.readF32(partialMd);
  return {
    md,
    out: it.isWhole ? o : attnMergeRef(o, md, { rows: qHeads, splits, headDim }),
    q: await gpu.readF32(q),
    cache: [await gpu.readU32(keys), await gpu.readU32(values)],
    stored: [await gpu.readU32(keys2), await gpu.readU32(values2)],
  };
}

/** The attention of the whole context, from reference states. */
function attention(it: Case, qkv: Float32Array, sample: AttnSample, capacity: number, round?: Round): Float64Array {
  const keys = sample.keys.slice(), values = sample.values.slice(), theta = frequencies(it.headDim);
  const { splits: _, ...step } = it,
    { o, md } = attnStepRef(qkv, keys, values, theta, { ...it, capacity }, step, round);
  return attnMergeRef(o, md, { rows: it.qHeads, splits: 1, headDim: it.headDim }, round);
}

/**
 * Of several naive f32 attentions that add pairs in other orders, number by number the one that errs most: where few
 * scores are large, one rounding more or less decides.
 */
function naive(it: Case, sample: AttnSample, capacity: number, exact: Float64Array): Float64Array {
  const D = it.headDim, P = D / 2, qkv = qkvOf(it), worst = exact.slice(), theta = frequencies(D);
  for (const step of [1, 3, 5, 7, 9].filter((step) => step === 1 || P % step !== 0)) {
    const moved = (i: number): number => i - i % P + (i % P) * step % P; // within either half of a head
    const mix = (x: Float32Array): Float32Array => x.map((_, i) => x[moved(i)]!);
    const keys = mix(sample.keys), values = mix(sample.values), { splits: _, ...at } = it;
    const frequency = theta.map((_, d) => theta[moved(d)]!);
    const { o, md } = attnStepRef(mix(qkv), keys, values, frequency, { ...it, capacity }, at, Math.fround);
    attnMergeRef(o, md, { rows: it.qHeads, splits: 1, headDim: D }, Math.fround).forEach((x, i) => {
      const to = moved(i);
      if (Math.abs(x - exact[to]!) > Math.abs(worst[to]! - exact[to]!)) worst[to] = x;
    });
  }
  return worst;
}

Deno.test("attn_step", (t) =>
  onEachText(t, async (gpu, t) => {
    for (const it of CASES) {
      await t.step(`is as accurate as f32 at ${JSON.stringify(it)}`, async () => {
        const capacity = it.position + 2 + (it.gap ?? 0), sample = sampleOf(it, capacity);
        const exact = attention(it, qkvOf(it), sample, capacity), f32 = naive(it, sample, capacity, exact);
        const { q } = attnStepRef(
          qkvOf(it),
          sample.keys,
          sample.values,
          frequencies(it.headDim),
          { ...it, capacity },
          it,
        );
        for (const isFallback of gpu.isFallback && !gpu.subgroups ? [true] : [false, true]) {
          const { out, cache, stored, q: turned } = await run(gpu, it, sampleOf(it, capacity), capacity, isFallback);
          assertAsAccurateAs(out, f32, exact);
          assertAsAccurateAs(turned, Float64Array.from(q, Math.fround), q);
          assertEquals(cache, stored, "the cache is not what rope_store makes");
        }
      });
    }
    await t.step("gives each split's largest score and sum, and leaves empty splits empty", async () => {
      const it = { headDim: 64, qHeads: 4, kvHeads: 2, position: 699, splits: 30 }, capacity = 701;
      const sample = sampleOf(it, capacity), { md } = await run(gpu, it, sample, capacity);
      const { chunkLanes, tokenLanes } = chooseAttnStep(it, { limits: gpu.limits, isFallback: false });
      const step = 4 * chunkLanes / tokenLanes, span = Math.ceil(700 / (30 * step)) * step;
      assertEquals(30 * span - 700 > span, true, "no split is empty: the test tests less than it says");
      const { keys, values } = sample, theta = frequencies(64), dims = { ...it, capacity };
      const want = attnStepRef(qkvOf(it), keys, values, theta, dims, { ...it, span });
      md.forEach((x, i) => assertAlmostEquals(x, want.md[i]!, 1e-5 * Math.max(1, Math.abs(want.md[i]!))));
      assertEquals(md.subarray(md.length - 2), Float32Array.of(-3.4028234663852886e38, 0));
    });
    await t.step("rejects slots past the cache, positions past the table, and states past the room", async () => {
      const it = { headDim: 32, qHeads: 1, kvHeads: 1, capacity: 300, states: 2, tableRows: 257 };
      const op = await AttnStep.create(gpu, it), shapes = attnStepShapes(it);
      const io = Object.fromEntries(
        Object.entries(shapes).map(([name, shape]) => [name, gpu.alloc(name, "f32", shape)]),
      );
      const encode = (params: Parameters<AttnStep["encode"]>[2]) => () =>
        op.encode(gpu.commands(), io as Parameters<AttnStep["encode"]>[1], params);
      assertThrows(encode({ position: 300 }), RangeError, "slots 0 to 300 as the cache has 300");
      assertThrows(encode({ position: 255, gap: 45 }), RangeError, "slots 0 to 300 as the cache has 300");
      assertThrows(encode({ position: 256, splits: 1 }), RangeError, "Cannot rotate to position 256");
      assertThrows(encode({ position: 5, splits: 3 }), RangeError, "3 partial states as there is room for 2");
      assertThrows(encode({ position: 5, splits: 2, isWhole: true }), RangeError, "as there is room for 1");
    });
  }));

Deno.test("attnStepRef() agrees with a softmax computed at once", () => {
  const dims = { qHeads: 1, kvHeads: 1, headDim: 2, capacity: 4 }, none = Float64Array.of(0);
  const qkv = Float32Array.of(Math.SQRT2 / 2, 0, 2, 0, -7, 0); // scores are half the keys
  const keys = Float32Array.of(1, 0, -1, 0, NaN, NaN, 0, 0), values = Float32Array.of(3, 0, 5, 0, NaN, NaN, 0, 0);
  const at = { position: 9, slot: 3, seen: 3, hole: 2, gap: 1, splits: 2, span: 2 };
  const { o, md } = attnStepRef(qkv, keys, values, none, dims, at);
  const e = [0.5, -0.5, 1].map(Math.exp), want = (3 * e[0]! + 5 * e[1]! - 7 * e[2]!) / (e[0]! + e[1]! + e[2]!);
  const merged = attnMergeRef(Float32Array.from(o), Float32Array.from(md), { rows: 1, splits: 2, headDim: 2 });
  assertAlmostEquals(merged[0]!, want, 1e-6);
  assertEquals([...keys.subarray(6), ...values.subarray(6)], [2, 0, -7, 0]);
});

Deno.test("chooseAttnStep() stays within the device, and splits within their bound", () => {
  const limits = { maxComputeInvocationsPerWorkgroup: 256, maxComputeWorkgroupStorageSize: 16384 };
  const small = { limits, isFallback: false };
  for (let headDim = 32; headDim <= 256; headDim += 8) {
    for (const group of [1, 2, 3, 4, 5, 6, 7, 8, 16, 32]) {
      for (const kvHeads of [1, 2, 8, 32]) {
        const variant = chooseAttnStep({ qHeads: group * kvHeads, kvHeads, headDim }, small);
        assertEquals(variant.chunks * variant.chunkLanes <= 256 && attnStepBytes(variant) <= 16384, true);
        assertEquals(variant.chunks * variant.heads >= group && variant.tokenLanes * 8 >= headDim, true);
        const onCpu = chooseAttnStep({ qHeads: group * kvHeads, kvHeads, headDim }, { limits, isFallback: true });
        assertEquals(onCpu, { ...variant, chunkLanes: variant.tokenLanes });
        for (const seen of [1, 64, 65, 131072]) assertEquals(attnStepSplits(variant, seen) <= variant.states, true);
      }
    }
  }
  const splits = (kvHeads: number, headDim: number, ...seen: number[]): number[] => {
    const variant = chooseAttnStep({ qHeads: 32, kvHeads, headDim }, small);
    return seen.map((n) => attnStepSplits(variant, n));
  };
  assertEquals(splits(8, 128, 1, 128, 129, 1024, 4096, 8192, 131072), [1, 1, 5, 32, 64, 64, 64]); // rounds of 16
  assertEquals(splits(4, 64, 256, 257, 8192), [1, 9, 128]); // of 32
  assertEquals(splits(32, 128, 1024, 8192), [32, 64]); // a head a lane
  assertThrows(() => chooseAttnStep({ qHeads: 64, kvHeads: 1, headDim: 256 }, small), RangeError, "512 are needed");
});
