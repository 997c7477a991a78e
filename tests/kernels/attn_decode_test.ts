import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { attnDecodeShapes, type AttnDims } from "../../src/core/shapes.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { AttnDecode } from "../../src/kernels/attn_decode.ts";
import { attnWalkBytes, attnWalkSplits, chooseAttnWalk } from "../../src/kernels/attn_walk.ts";
import { attnDecodeRef } from "../../src/ref/attn_decode.ts";
import { attnMergeRef } from "../../src/ref/attn_merge.ts";
import type { Round } from "../../src/ref/round.ts";
import { assertAsAccurateAs } from "../_assert.ts";
import { onEachText, poisoned } from "../_gpu.ts";
import { type AttnSample, attnSample } from "./_attn.ts";

interface Case extends Omit<AttnDims, "capacity"> {
  readonly start: number;
  readonly seen: number;
  readonly splits?: number;
  readonly sharpness?: number;
}

/** Every head dimension, ratio and length once, not their product. */
const CASES: Case[] = [
  { headDim: 128, qHeads: 8, kvHeads: 2, tokens: 1, start: 0, seen: 1 },
  { headDim: 128, qHeads: 8, kvHeads: 2, tokens: 1, start: 5, seen: 1025 },
  { headDim: 128, qHeads: 16, kvHeads: 2, tokens: 1, start: 0, seen: 257 },
  { headDim: 128, qHeads: 3, kvHeads: 3, tokens: 1, start: 0, seen: 65 },
  { headDim: 64, qHeads: 14, kvHeads: 2, tokens: 1, start: 1, seen: 64 },
  { headDim: 64, qHeads: 4, kvHeads: 2, tokens: 1, start: 0, seen: 257, splits: 3 },
  { headDim: 32, qHeads: 3, kvHeads: 1, tokens: 1, start: 0, seen: 63 },
  { headDim: 40, qHeads: 5, kvHeads: 1, tokens: 1, start: 2, seen: 257, splits: 9 },
  { headDim: 80, qHeads: 4, kvHeads: 1, tokens: 1, start: 0, seen: 65 },
  { headDim: 96, qHeads: 6, kvHeads: 1, tokens: 1, start: 0, seen: 130 },
  { headDim: 256, qHeads: 8, kvHeads: 1, tokens: 1, start: 0, seen: 257 },
  { headDim: 128, qHeads: 4, kvHeads: 1, tokens: 1, start: 0, seen: 1025, sharpness: 300 },
  { headDim: 64, qHeads: 32, kvHeads: 1, tokens: 3, start: 4, seen: 62 },
];

/** Runs one case, its states after a first that stays untouched; gives the states alone. */
async function run(gpu: Gpu, it: Case, { q, keyBits, valueBits }: AttnSample, state = 1, isFallback = false) {
  const { tokens, qHeads, headDim, start, seen } = it,
    variant = chooseAttnWalk(it, { limits: gpu.limits, isFallback });
  const op = await AttnDecode.create(gpu, it, { variant });
  const splits = it.splits ?? attnWalkSplits(op.variant, seen, tokens);
  const shapes = attnDecodeShapes({ ...it, capacity: start + seen + tokens + 1, states: state + splits });
  using qs = gpu.upload("q", "f32", shapes.q, q), partialO = poisoned(gpu, "partial_o", shapes.partialO);
  using keys = gpu.upload("keys", "u32", shapes.keys, keyBits);
  using values = gpu.upload("values", "u32", shapes.values, valueBits);
  using partialMd = poisoned(gpu, "partial_md", shapes.partialMd);
  const commands = gpu.commands();
  const written = op.encode(commands, { q: qs, keys, values, partialO, partialMd }, { ...it, state });
  assertEquals(written, splits);
  commands.submit();
  const o = await gpu.readF32(partialO), md = await gpu.readF32(partialMd), rows = state * tokens * qHeads;
  assertEquals([...o.subarray(0, rows * headDim), ...md.subarray(0, 2 * rows)].every(Number.isNaN), true);
  return { o: o.subarray(rows * headDim), md: md.subarray(2 * rows), splits };
}

/** The attention of the whole context, from reference states. */
function attention(it: Case, sample: AttnSample, round?: Round): Float64Array {
  const { start, seen, tokens, qHeads, headDim } = it, capacity = start + seen + tokens + 1;
  const { o, md } = attnDecodeRef(sample.q, sample.keys, sample.values, { ...it, capacity }, { start, seen }, round);
  return attnMergeRef(o, md, { rows: tokens * qHeads, splits: 1, headDim }, round);
}

/**
 * Of several naive f32 attentions that add channels in other orders, number by number the one that errs most: where few
 * scores are large, one rounding more or less decides.
 */
function naive(it: Case, sample: AttnSample): Float64Array {
  const D = it.headDim, exact = attention(it, sample), worst = exact.slice();
  for (const step of [1, 3, 5, 7, 9].filter((step) => step === 1 || D % step !== 0)) {
    const from = (i: number) => i - i % D + (i % D) * step % D;
    const { q, keys, values } = sample, moved = <T extends Float32Array>(x: T) => x.map((_, i) => x[from(i)]!);
    const out = attention(it, { ...sample, q: moved(q), keys: moved(keys), values: moved(values) }, Math.fround);
    out.forEach((x, i) => {
      const to = from(i);
      if (Math.abs(x - exact[to]!) > Math.abs(worst[to]! - exact[to]!)) worst[to] = x;
    });
  }
  return worst;
}

Deno.test("attn_decode", (t) =>
  onEachText(t, async (gpu, t) => {
    for (const it of CASES) {
      await t.step(`is as accurate as f32 at ${JSON.stringify(it)}`, async () => {
        const { start, seen, tokens, qHeads, headDim } = it, capacity = start + seen + tokens + 1;
        const sample = attnSample({ ...it, capacity }, start, start + seen + tokens - 1, it.sharpness);
        const f32 = naive(it, sample), exact = attention(it, sample);
        for (const isFallback of [false, true]) {
          const { o, md, splits } = await run(gpu, it, sample, 1, isFallback);
          assertAsAccurateAs(attnMergeRef(o, md, { rows: tokens * qHeads, splits, headDim }), f32, exact);
        }
      });
    }
    await t.step("leaves empty splits empty", async () => {
      const it = { headDim: 64, qHeads: 2, kvHeads: 1, tokens: 1, start: 0, seen: 3, splits: 2 };
      const { o, md } = await run(gpu, it, attnSample({ ...it, capacity: 5 }, 0, 3), 0);
      assertEquals(o.subarray(128), new Float32Array(128));
      assertEquals(md.subarray(4), Float32Array.of(-3.4028234663852886e38, 0, -3.4028234663852886e38, 0));
      const none = await run(gpu, { ...it, seen: 0, splits: 1 }, attnSample({ ...it, capacity: 2 }, 0, 0), 0);
      assertEquals(none.o, new Float32Array(128));
      assertEquals(none.md[1], 0);
    });
    await t.step("gives each split's largest score and sum", async () => {
      const it = { headDim: 32, qHeads: 4, kvHeads: 2, tokens: 2, start: 1, seen: 700, splits: 3 };
      const dims = { ...it, capacity: 704 }, sample = attnSample(dims, 1, 702), { md } = await run(gpu, it, sample);
      const step = 4 * chooseAttnWalk(it, { limits: gpu.limits, isFallback: false }).chunkLanes / 4,
        span = Math.ceil(701 / (3 * step)) * step;
      const want = attnDecodeRef(sample.q, sample.keys, sample.values, dims, { ...it, span });
      md.forEach((x, i) => assertAlmostEquals(x, want.md[i]!, 1e-5 * Math.max(1, Math.abs(want.md[i]!))));
    });
    await t.step("rejects slots past the cache, and states past the room", async () => {
      const it = { headDim: 32, qHeads: 1, kvHeads: 1, tokens: 1, capacity: 8, states: 2 };
      const op = await AttnDecode.create(gpu, it), shapes = attnDecodeShapes(it);
      const tensor = (name: keyof typeof shapes) => gpu.alloc(name, "f32", shapes[name]);
      const io = { q: tensor("q"), keys: tensor("keys"), values: tensor("values") };
      const all = { ...io, partialO: tensor("partialO"), partialMd: tensor("partialMd") };
      const encode = (start: number, state: number) => () =>
        op.encode(gpu.commands(), all, { start, seen: 4, state, splits: 1 });
      assertThrows(encode(5, 0), RangeError, "slots 5 to 8 as the cache has 8");
      assertThrows(encode(0, 2), RangeError, "states 2 to 2 as there is room for 2");
    });
  }));

Deno.test("attnDecodeRef() agrees with a softmax computed at once", () => {
  const dims = { tokens: 1, qHeads: 1, kvHeads: 1, headDim: 1, capacity: 3 };
  const keys = Float32Array.of(1, -1, 2), values = Float32Array.of(3, 5, -7);
  const { o, md } = attnDecodeRef(Float32Array.of(0.5), keys, values, dims, { start: 0, seen: 3, splits: 2, span: 2 });
  const e = [0.5, -0.5, 1].map(Math.exp), want = (3 * e[0]! + 5 * e[1]! - 7 * e[2]!) / (e[0]! + e[1]! + e[2]!);
  assertAlmostEquals(
    attnMergeRef(Float32Array.from(o), Float32Array.from(md), { rows: 1, splits: 2, headDim: 1 })[0]!,
    want,
    1e-6,
  );
});

Deno.test("chooseAttnWalk() stays within the device, and splits within their bound", () => {
  const limits = { maxComputeInvocationsPerWorkgroup: 256, maxComputeWorkgroupStorageSize: 16384 };
  const small = { limits, isFallback: false };
  for (let headDim = 32; headDim <= 256; headDim += 8) {
    for (const group of [1, 2, 3, 4, 5, 6, 7, 8, 16, 32]) {
      for (const kvHeads of [1, 2, 8, 32]) {
        const variant = chooseAttnWalk({ qHeads: group * kvHeads, kvHeads, headDim }, small);
        assertEquals(variant.chunks * variant.chunkLanes <= 256 && attnWalkBytes(variant) <= 16384, true);
        assertEquals(variant.chunks * variant.heads >= group && variant.tokenLanes * 8 >= headDim, true);
        const onCpu = chooseAttnWalk({ qHeads: group * kvHeads, kvHeads, headDim }, { limits, isFallback: true });
        assertEquals(onCpu, { ...variant, chunkLanes: variant.tokenLanes });
        for (const tokens of [1, 3, variant.states]) {
          for (const seen of [1, 64, 65, 131072]) {
            assertEquals(attnWalkSplits(variant, seen, tokens) * tokens <= variant.states, true);
          }
        }
      }
    }
  }
  const llama = chooseAttnWalk({ qHeads: 32, kvHeads: 8, headDim: 128 }, small);
  assertEquals([1, 64, 1024, 8192, 131072].map((seen) => attnWalkSplits(llama, seen)), [1, 2, 32, 64, 256]);
  assertThrows(() => chooseAttnWalk({ qHeads: 64, kvHeads: 1, headDim: 256 }, small), RangeError, "512 are needed");
});
