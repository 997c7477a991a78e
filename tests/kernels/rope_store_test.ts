import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { fromF16Array, toF16 } from "../../src/core/f16.ts";
import { Rng } from "../../src/core/rng.ts";
import { ropeTable, ropeTableRows } from "../../src/core/rope_table.ts";
import { ropeStoreShapes } from "../../src/core/shapes.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { RopeStore } from "../../src/kernels/rope_store.ts";
import { ropeStoreRef } from "../../src/ref/rope_store.ts";
import { assertAsAccurateAs, normals, relativeError } from "../_assert.ts";
import { onEachText, poisoned } from "../_gpu.ts";

interface Case {
  readonly tokens: number;
  readonly qHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly position: number;
  readonly slot: number;
  readonly rotateKeys?: boolean;
}

const CASES: Case[] = [
  { tokens: 1, qHeads: 8, kvHeads: 2, headDim: 128, position: 131071, slot: 3 },
  { tokens: 65, qHeads: 4, kvHeads: 4, headDim: 64, position: 0, slot: 0 },
  { tokens: 3, qHeads: 7, kvHeads: 1, headDim: 40, position: 1000, slot: 7, rotateKeys: false },
  { tokens: 17, qHeads: 6, kvHeads: 2, headDim: 80, position: 250, slot: 0 },
  { tokens: 2, qHeads: 3, kvHeads: 3, headDim: 256, position: 65535, slot: 1 },
  { tokens: 33000, qHeads: 1, kvHeads: 1, headDim: 8, position: 5, slot: 2 },
];

const frequencies = (headDim: number): Float64Array =>
  Float64Array.from({ length: headDim / 2 }, (_, d) => Math.fround(500000 ** (-2 * d / headDim)));

async function run(gpu: Gpu, { rotateKeys, position, slot, ...axes }: Case, input: Float32Array) {
  const { tokens, headDim, kvHeads } = axes, context = position + tokens, capacity = slot + tokens + 2;
  const shapes = ropeStoreShapes({ ...axes, capacity, tableRows: ropeTableRows(context) });
  const op = await RopeStore.create(gpu, axes, { rotateKeys });
  using qkv = gpu.upload("qkv", "f32", shapes.qkv, input);
  using table = gpu.upload("rope_table", "f32", shapes.ropeTable, ropeTable(frequencies(headDim), context));
  using q = poisoned(gpu, "q", shapes.q);
  const nans = new Uint32Array(kvHeads * capacity * headDim / 2).fill(0x7e007e00);
  using keys = gpu.upload("keys", "u32", shapes.keys, nans), values = gpu.upload("values", "u32", shapes.values, nans);
  const commands = gpu.commands();
  op.encode(commands, { qkv, ropeTable: table, q, keys, values }, { tokens, position, slot });
  commands.submit();
  const cache = async (tensor: typeof keys) => fromF16Array(new Uint16Array(await gpu.read(tensor)));
  return { q: await gpu.readF32(q), keys: await cache(keys), values: await cache(values), capacity };
}

/** Slots `[slot, slot + tokens)` of a cache `[K][capacity][D]`; the others must still be NaN. */
function stored(cache: Float32Array, { tokens, kvHeads, headDim, slot }: Case, capacity: number): Float32Array {
  const out = new Float32Array(kvHeads * tokens * headDim);
  for (let k = 0; k < kvHeads; k++) {
    const head = cache.subarray(k * capacity * headDim, (k + 1) * capacity * headDim);
    out.set(head.subarray(slot * headDim, (slot + tokens) * headDim), k * tokens * headDim);
    const rest = [...head.subarray(0, slot * headDim), ...head.subarray((slot + tokens) * headDim)];
    assertEquals(rest.every(Number.isNaN), true, "another slot was written");
  }
  return out;
}

const halves = (values: Float64Array): Float32Array => fromF16Array(Uint16Array.from(values, toF16));

Deno.test("rope_store", (t) =>
  onEachText(t, async (gpu, t) => {
    for (const it of CASES) {
      await t.step(`is as accurate as f32 at ${JSON.stringify(it)}`, async () => {
        const { tokens, qHeads, kvHeads, headDim, position, rotateKeys } = it;
        const input = normals(new Rng(3), tokens * (qHeads + 2 * kvHeads) * headDim);
        const got = await run(gpu, it, input), theta = frequencies(headDim);
        const want = ropeStoreRef(input, theta, it, position, rotateKeys);
        const naive = ropeStoreRef(input, theta, it, position, rotateKeys, Math.fround);
        assertAsAccurateAs(got.q, naive.q, want.q);
        assert(relativeError(got.q, want.q) < 2 ** -22, "the angle was rounded");
        assertAsAccurateAs(stored(got.keys, it, got.capacity), halves(naive.keys), want.keys);
        assertAsAccurateAs(stored(got.values, it, got.capacity), halves(naive.values), want.values);
      });
    }
    await t.step("keeps what half precision cannot hold at its largest", async () => {
      const it = { tokens: 1, qHeads: 1, kvHeads: 1, headDim: 8, position: 0, slot: 0 };
      const got = await run(gpu, it, new Float32Array(24).fill(1e6));
      assertEquals(got.keys.slice(0, 8), new Float32Array(8).fill(65504));
    });
    await t.step("rejects slots past the cache", async () => {
      const axes = { tokens: 4, qHeads: 1, kvHeads: 1, headDim: 8, capacity: 8, tableRows: 257 };
      const shapes = ropeStoreShapes(axes), op = await RopeStore.create(gpu, axes);
      const [qkv, table, q, keys] = (["qkv", "ropeTable", "q", "keys"] as const)
        .map((name) => gpu.alloc(name, "f32", shapes[name]));
      const io = { qkv: qkv!, ropeTable: table!, q: q!, keys: keys!, values: keys! };
      const encode = (slot: number, position: number) => () =>
        op.encode(gpu.commands(), io, { tokens: 4, position, slot });
      assertThrows(encode(5, 0), RangeError, "slots 5 to 8 as the cache has 8");
      assertThrows(encode(0, 253), RangeError, "Cannot rotate to position 256");
    });
  }));

Deno.test("ropeStoreRef() turns a pair by position times frequency", () => {
  const dims = { tokens: 1, qHeads: 1, kvHeads: 1, headDim: 8 }, input = new Float32Array(24);
  input[8] = 1; // key, channel 0: the real part of pair 0
  const { keys } = ropeStoreRef(input, Float64Array.of(0.5, 1, 1, 1), dims, 3);
  assertAlmostEquals(keys[0]!, Math.cos(1.5));
  assertAlmostEquals(keys[4]!, Math.sin(1.5));
});
