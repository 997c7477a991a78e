import { assertEquals, assertThrows } from "@std/assert";
import { fromF16Array } from "../../src/core/f16.ts";
import { Rng } from "../../src/core/rng.ts";
import { ropeTable, ropeTableRows } from "../../src/core/rope_table.ts";
import { type AttnDims, attnStepShapes, ropeStoreShapes } from "../../src/core/shapes.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { AttnStep, attnStepSplits } from "../../src/kernels/attn_step.ts";
import { chooseAttnWalk } from "../../src/kernels/attn_walk.ts";
import { RopeStore } from "../../src/kernels/rope_store.ts";
import { attnMergeRef } from "../../src/ref/attn_merge.ts";
import { attnStepRef } from "../../src/ref/attn_step.ts";
import type { Round } from "../../src/ref/round.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { onEachText, poisoned } from "../_gpu.ts";
import { type AttnSample, attnSample } from "./_attn.ts";

interface Case extends Omit<AttnDims, "tokens" | "capacity"> {
  readonly position: number;
  readonly splits?: number;
}

/** Every head dimension and ratio once; lengths within a round, at its end, and of several splits. */
const CASES: Case[] = [
  { headDim: 128, qHeads: 8, kvHeads: 2, position: 0 },
  { headDim: 128, qHeads: 4, kvHeads: 1, position: 1024 },
  { headDim: 64, qHeads: 14, kvHeads: 2, position: 255 },
  { headDim: 64, qHeads: 2, kvHeads: 2, position: 2, splits: 2 },
  { headDim: 40, qHeads: 5, kvHeads: 1, position: 257, splits: 9 },
  { headDim: 96, qHeads: 6, kvHeads: 1, position: 130 },
  { headDim: 256, qHeads: 8, kvHeads: 1, position: 257 },
];

const frequencies = (headDim: number): Float64Array =>
  Float64Array.from({ length: headDim / 2 }, (_, d) => Math.fround(500000 ** (-2 * d / headDim)));

const qkvOf = ({ qHeads, kvHeads, headDim }: Case): Float32Array =>
  normals(new Rng(5), (qHeads + 2 * kvHeads) * headDim);

/** Runs one case on a cache of capacity `position + 3` that holds the sample before the position, and NaN from it on. */
async function run(gpu: Gpu, it: Case, { keyBits, valueBits }: AttnSample, isFallback: boolean) {
  const { position, headDim } = it, capacity = position + 3, tableRows = ropeTableRows(capacity);
  const op = await AttnStep.create(gpu, it, { variant: chooseAttnWalk(it, { limits: gpu.limits, isFallback }) });
  const splits = it.splits ?? op.splits(position), dims = { ...it, tokens: 1, capacity, tableRows, states: splits };
  const shapes = attnStepShapes(dims), table = ropeTable(frequencies(headDim), capacity);
  using qkv = gpu.upload("qkv", "f32", shapes.qkv, qkvOf(it));
  using turns = gpu.upload("rope table", "f32", shapes.ropeTable, table);
  using keys = gpu.upload("keys", "u32", shapes.keys, keyBits);
  using values = gpu.upload("values", "u32", shapes.values, valueBits);
  using partialO = poisoned(gpu, "partial_o", shapes.partialO),
    partialMd = poisoned(gpu, "partial_md", shapes.partialMd);
  const commands = gpu.commands();
  op.encode(commands, { qkv, ropeTable: turns, keys, values, partialO, partialMd }, { position, splits });
  commands.submit();

  using q = poisoned(gpu, "q", ropeStoreShapes(dims).q);
  using keys2 = gpu.upload("keys", "u32", shapes.keys, keyBits);
  using values2 = gpu.upload("values", "u32", shapes.values, valueBits);
  const store = await RopeStore.create(gpu, it), stored = gpu.commands();
  const io = { qkv, ropeTable: turns, q, keys: keys2, values: values2 };
  store.encode(stored, io, { tokens: 1, position, slot: position });
  stored.submit();

  const o = await gpu.readF32(partialO), md = await gpu.readF32(partialMd), rows = it.qHeads;
  return {
    out: splits === 1 ? o : attnMergeRef(o, md, { rows, splits, headDim }),
    cache: [await gpu.readU32(keys), await gpu.readU32(values)],
    stored: [await gpu.readU32(keys2), await gpu.readU32(values2)],
  };
}

Deno.test("attn_step", (t) =>
  onEachText(t, async (gpu, t) => {
    for (const it of CASES) {
      await t.step(`is as accurate as f32 at ${JSON.stringify(it)}`, async () => {
        const { position, qHeads, headDim } = it, dims = { ...it, capacity: position + 3 };
        const sample = attnSample({ ...dims, tokens: 1 }, 0, position);
        const reference = (round?: Round) => {
          const keys = fromF16Array(sample.keyBits), values = fromF16Array(sample.valueBits);
          const { o, md } = attnStepRef(qkvOf(it), keys, values, frequencies(headDim), dims, { position }, round);
          return attnMergeRef(o, md, { rows: qHeads, splits: 1, headDim }, round);
        };
        for (const isFallback of [false, true]) {
          const { out, cache, stored } = await run(gpu, it, sample, isFallback);
          assertAsAccurateAs(out, reference(Math.fround), reference());
          assertEquals(cache, stored, "the cache is not what rope_store makes");
        }
      });
    }
    await t.step("rejects slots past the cache, positions past the table, and states past the room", async () => {
      const it = { headDim: 32, qHeads: 1, kvHeads: 1, capacity: 300, states: 2, tableRows: 257 };
      const op = await AttnStep.create(gpu, it), shapes = attnStepShapes(it);
      const tensor = (name: keyof typeof shapes) => gpu.alloc(name, "f32", shapes[name]);
      const io = { qkv: tensor("qkv"), ropeTable: tensor("ropeTable"), keys: tensor("keys"), values: tensor("values") };
      const all = { ...io, partialO: tensor("partialO"), partialMd: tensor("partialMd") };
      const encode = (position: number, splits: number) => () => op.encode(gpu.commands(), all, { position, splits });
      assertThrows(encode(300, 1), RangeError, "slot 300 as the cache has 300");
      assertThrows(encode(256, 1), RangeError, "Cannot rotate to position 256");
      assertThrows(encode(5, 3), RangeError, "3 partial states as there is room for 2");
    });
  }));

Deno.test("attnStepSplits() leaves a few rounds to one workgroup", () => {
  const limits = { maxComputeInvocationsPerWorkgroup: 256, maxComputeWorkgroupStorageSize: 16384 };
  const splits = (headDim: number, seen: number) =>
    attnStepSplits(chooseAttnWalk({ qHeads: 8, kvHeads: 4, headDim }, { limits, isFallback: false }), seen);
  assertEquals([1, 128, 129, 8192].map((seen) => splits(128, seen)), [1, 1, 5, 128]);
  assertEquals([256, 257].map((seen) => splits(64, seen)), [1, 9]);
});
