import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { type AttnDims, attnPrefillShapes } from "../../src/core/shapes.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import {
  AttnPrefill,
  attnPrefillBytes,
  attnPrefillLanes,
  type AttnPrefillVariant,
  chooseAttnPrefill,
} from "../../src/kernels/attn_prefill.ts";
import { attnMergeRef } from "../../src/ref/attn_merge.ts";
import { type AttnPrefillContext, attnPrefillRef, attnPrefillStatesRef } from "../../src/ref/attn_prefill.ts";
import { assertAsAccurateAs } from "../_assert.ts";
import { onEachReading, poisoned } from "../_gpu.ts";
import { type AttnSample, attnSample } from "./_attn.ts";

interface Case extends Omit<AttnDims, "capacity"> {
  readonly start: number;
  readonly seen: number;
  readonly sharpness?: number;
  readonly variant?: AttnPrefillVariant;
}

/** Every head dimension, ratio, and place of the diagonal once, not their product. */
const CASES: Case[] = [
  { headDim: 128, qHeads: 4, kvHeads: 1, tokens: 65, start: 0, seen: 1 },
  { headDim: 128, qHeads: 8, kvHeads: 2, tokens: 3, start: 2, seen: 257 },
  { headDim: 128, qHeads: 2, kvHeads: 2, tokens: 1, start: 0, seen: 1 },
  { headDim: 128, qHeads: 1, kvHeads: 1, tokens: 257, start: 0, seen: 1, sharpness: 300 },
  { headDim: 64, qHeads: 7, kvHeads: 1, tokens: 64, start: 0, seen: 2 },
  { headDim: 64, qHeads: 1, kvHeads: 1, tokens: 9, start: 0, seen: 1017 },
  { headDim: 32, qHeads: 3, kvHeads: 1, tokens: 63, start: 1, seen: 64 },
  { headDim: 40, qHeads: 2, kvHeads: 1, tokens: 33, start: 0, seen: 1 },
  { headDim: 80, qHeads: 3, kvHeads: 3, tokens: 17, start: 0, seen: 30 },
  { headDim: 96, qHeads: 5, kvHeads: 1, tokens: 13, start: 0, seen: 49 },
  { headDim: 256, qHeads: 8, kvHeads: 1, tokens: 10, start: 0, seen: 130 },
  { headDim: 128, qHeads: 2, kvHeads: 1, tokens: 40, start: 0, seen: 30, variant: { rows: 32, slice: 8, held: 8 } },
];

async function run(gpu: Gpu, it: Case, { q, keyBits, valueBits }: AttnSample, state?: number) {
  const { tokens, start, seen, variant } = it, partial = state !== undefined;
  const op = await AttnPrefill.create(gpu, it, { partial, variant });
  const states = partial ? state + 1 : undefined;
  const shapes = attnPrefillShapes({ ...it, capacity: start + seen + tokens + 1, states });
  using qs = gpu.upload("q", "f32", shapes.q, q), out = poisoned(gpu, "out", shapes.out);
  using keys = gpu.upload("keys", "u32", shapes.keys, keyBits);
  using values = gpu.upload("values", "u32", shapes.values, valueBits);
  using md = poisoned(gpu, "md", shapes.md);
  const commands = gpu.commands();
  op.encode(commands, { q: qs, keys, values, out, md }, { tokens, start, seen, state });
  commands.submit();
  return { out: await gpu.readF32(out), md: await gpu.readF32(md) };
}

/** Where windows and sinks lie to tiles, rows that see nothing far, and prompts that begin late. */
const MASKED: (Case & { window: number; sinks: number })[] = [
  { headDim: 64, qHeads: 2, kvHeads: 1, tokens: 150, start: 0, seen: 1, window: 17, sinks: 4 },
  { headDim: 64, qHeads: 2, kvHeads: 2, tokens: 40, start: 0, seen: 200, window: 64, sinks: 0 },
  { headDim: 128, qHeads: 4, kvHeads: 1, tokens: 70, start: 1, seen: 90, window: 1, sinks: 130 },
  { headDim: 128, qHeads: 1, kvHeads: 1, tokens: 260, start: 0, seen: 1, window: 32, sinks: 1 },
  { headDim: 32, qHeads: 3, kvHeads: 1, tokens: 33, start: 0, seen: 1, window: 8, sinks: 64 },
  { headDim: 80, qHeads: 1, kvHeads: 1, tokens: 90, start: 0, seen: 2, window: 1000, sinks: 0 },
];
const LOWEST = -3.4028234663852886e38;

const part = (
  q: Float32Array,
  { keys, values }: AttnSample,
  dims: AttnDims,
  context: AttnPrefillContext,
  round?: typeof Math.fround,
) => attnPrefillStatesRef(q, keys, values, dims, context, round);
const joined = (a: Float64Array, b: Float64Array) => Float32Array.from([...a, ...b]);

/** Two states: what is near in the first cache, what is far in the second. */
async function runMasked(gpu: Gpu, it: Case & { window: number; sinks: number }, near: AttnSample, far: AttnSample) {
  const { tokens, start, seen, window, sinks } = it, capacity = start + seen + tokens + 1;
  const shapes = attnPrefillShapes({ ...it, capacity, states: 2 });
  using q = gpu.upload("q", "f32", shapes.q, near.q), out = poisoned(gpu, "out", shapes.out);
  using md = poisoned(gpu, "md", shapes.md);
  using stack = new DisposableStack();
  const commands = gpu.commands();
  for (const [state, mask, { keyBits, valueBits }] of [[0, "near", near], [1, "far", far]] as const) {
    const op = await AttnPrefill.create(gpu, it, { mask });
    const keys = stack.use(gpu.upload("keys", "u32", shapes.keys, keyBits));
    const values = stack.use(gpu.upload("values", "u32", shapes.values, valueBits));
    op.encode(commands, { q, keys, values, out, md }, { tokens, start, seen, state, window, sinks });
  }
  commands.submit();
  return { out: await gpu.readF32(out), md: await gpu.readF32(md) };
}

function sampled(it: Case): { dims: AttnDims; sample: AttnSample } {
  const { tokens, start, seen } = it, dims = { ...it, capacity: start + seen + tokens + 1 };
  return { dims, sample: attnSample(dims, start, start + seen + tokens - 1, it.sharpness) };
}

Deno.test("attn_prefill", (t) =>
  onEachReading(t, async (gpu, t) => {
    for (const it of CASES) {
      await t.step(`is as accurate as f32 at ${JSON.stringify(it)}`, async () => {
        const { dims, sample } = sampled(it), { q, keys, values } = sample, { out } = await run(gpu, it, sample);
        const ref = (round?: typeof Math.fround) => attnPrefillRef(q, keys, values, dims, it, round);
        assertAsAccurateAs(out, ref(Math.fround), ref());
      });
    }
    await t.step("writes a partial state that merges to the same", async () => {
      const it = { headDim: 64, qHeads: 2, kvHeads: 1, tokens: 5, start: 0, seen: 40 }, { sample } = sampled(it);
      const whole = await run(gpu, it, sample), { out, md } = await run(gpu, it, sample, 1), rows = 10;
      assertEquals(out.subarray(0, rows * 64).every(Number.isNaN), true, "state 0 was written");
      const folded = attnMergeRef(out.subarray(rows * 64), md.subarray(rows * 2), { rows, splits: 1, headDim: 64 });
      folded.forEach((x, i) => assertAlmostEquals(x, whole.out[i]!, 1e-5));
    });
    for (const it of MASKED) {
      await t.step(`merges near and far of two caches at ${JSON.stringify(it)}`, async () => {
        const { dims, sample } = sampled(it), other = sampled({ ...it, sharpness: 2 }).sample;
        const states = await runMasked(gpu, it, sample, other);
        const shape = { rows: it.tokens * it.qHeads, splits: 2, headDim: it.headDim };
        const ref = (round?: typeof Math.fround) => {
          const near = part(sample.q, sample, dims, { ...it, mask: "near" }, round);
          const far = part(sample.q, other, dims, { ...it, mask: "far" }, round);
          return attnMergeRef(joined(near.o, far.o), joined(near.md, far.md), shape, round);
        };
        assertAsAccurateAs(attnMergeRef(states.out, states.md, shape), ref(Math.fround), ref());
        const { md } = part(sample.q, other, dims, { ...it, mask: "far" });
        for (let r = 0; r < shape.rows; r++) { // rows that see nothing weigh nothing
          if (md[2 * r + 1] === 0) {
            assertEquals([...states.md.subarray(2 * (shape.rows + r)).subarray(0, 2)], [LOWEST, 0]);
          }
        }
      });
    }
    await t.step("rejects a window that has no room for the token itself", async () => {
      const it = { headDim: 32, qHeads: 1, kvHeads: 1, tokens: 4, capacity: 8 };
      const op = await AttnPrefill.create(gpu, it, { mask: "near" }), shapes = attnPrefillShapes({ ...it, states: 1 });
      using stack = new DisposableStack();
      const tensor = (name: keyof typeof shapes) => stack.use(gpu.alloc(name, "f32", shapes[name]));
      const io = {
        q: tensor("q"),
        keys: tensor("keys"),
        values: tensor("values"),
        out: tensor("out"),
        md: tensor("md"),
      };
      const encode = () => op.encode(gpu.commands(), io, { tokens: 4, start: 0, seen: 1, window: 0 });
      assertThrows(encode, RangeError, "window must be >= 1");
    });
    await t.step("rejects slots past the cache, and a first token that sees none", async () => {
      const it = { headDim: 32, qHeads: 1, kvHeads: 1, tokens: 4, capacity: 8 };
      const op = await AttnPrefill.create(gpu, it), shapes = attnPrefillShapes(it);
      const tensor = (name: keyof typeof shapes) => gpu.alloc(name, "f32", shapes[name]);
      const io = {
        q: tensor("q"),
        keys: tensor("keys"),
        values: tensor("values"),
        out: tensor("out"),
        md: tensor("md"),
      };
      const encode = (start: number, seen: number) => () => op.encode(gpu.commands(), io, { tokens: 4, start, seen });
      assertThrows(encode(3, 3), RangeError, "slots 3 to 8");
      assertThrows(encode(0, 0), RangeError, "the first sees 0");
    });
  }));

Deno.test("chooseAttnPrefill() stays within the device", () => {
  for (const bytes of [16384, 32768, 49152]) {
    for (let headDim = 32; headDim <= 256; headDim += 8) {
      const limits = { maxComputeInvocationsPerWorkgroup: 256, maxComputeWorkgroupStorageSize: bytes };
      const variant = chooseAttnPrefill(headDim, limits);
      assertEquals(attnPrefillBytes(variant, headDim) <= bytes && attnPrefillLanes(variant, headDim) <= 256, true);
      assertEquals(headDim % variant.slice + headDim / 2 % variant.held, 0);
    }
  }
  const h200 = { maxComputeInvocationsPerWorkgroup: 1024, maxComputeWorkgroupStorageSize: 49152 };
  assertEquals(chooseAttnPrefill(128, h200), { rows: 64, slice: 32, held: 32 });
  assertThrows(
    () => chooseAttnPrefill(256, { ...h200, maxComputeWorkgroupStorageSize: 1024 }),
    RangeError,
    "current limit is 1024",
  );
});
