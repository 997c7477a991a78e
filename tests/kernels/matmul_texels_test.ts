import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { MatmulTexels, type TokenGroup, tokenGroup } from "../../src/kernels/matmul_texels.ts";
import { WeightMatrix } from "../../src/kernels/weights.ts";
import { matmulTexelsRef } from "../../src/ref/matmul_texels.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { randomWeights, type Sample, TYPES } from "./_weights.ts";

interface Options {
  readonly residual?: boolean;
  readonly paired?: boolean;
  readonly maxBytes?: number;
  readonly group?: TokenGroup;
}

/** Runs one product into the middle of wider rows, and checks it, and that nothing else was written. */
async function check(gpu: Gpu, sample: Sample, tokens: number, options: Options = {}): Promise<void> {
  const { rows, cols, numbers } = sample, rng = new Rng(tokens), stride = rows + 3, room = Math.ceil(tokens / 8) * 8;
  const xs = normals(rng, tokens * cols), old = normals(rng, tokens * stride, options.residual ? 1 : NaN);
  using weights = WeightMatrix.alloc(gpu, "weights", sample, { ...options, texels: true });
  weights.write(0, sample.file);
  const padded = new Float32Array(room * cols).fill(NaN); // what lies past the tokens must not matter
  padded.set(xs);
  using all = gpu.upload("x", "f32", [room, cols], padded), out = gpu.upload("out", "f32", [tokens, stride], old);
  const op = await MatmulTexels.create(gpu, sample, options), commands = gpu.commands();
  op.encode(commands, weights, { x: all.view(0, [tokens, cols]), out }, { column: 2 });
  commands.submit();
  const actual = await gpu.readF32(out), inside = (i: number): boolean => i % stride >= 2 && i % stride < rows + 2;
  const residual = options.residual ? old.filter((_, i) => inside(i)) : undefined;
  const naive = matmulTexelsRef(numbers, xs, cols, residual, Math.fround);
  const exact = matmulTexelsRef(numbers, xs, cols, residual);
  assertAsAccurateAs(actual.filter((_, i) => inside(i)), naive, exact);
  assertEquals(actual.filter((_, i) => !inside(i)), old.filter((_, i) => !inside(i)));
}

Deno.test("matmul_texels", async (t) => {
  using gpu = await Gpu.create();
  if (!gpu.texels) return; // buffers are not bound as uniform then
  for (const type of TYPES) {
    await t.step(`is as accurate as f32 for ${type}`, async () => {
      await check(gpu, randomWeights(type, 37, type.endsWith("K") ? 256 : 192, 3), 1);
      await check(gpu, randomWeights(type, 37, type.endsWith("K") ? 256 : 192, 3), 33);
    });
  }
  for (const group of [1, 2, 4, 8] as const) {
    for (const tokens of [31, 32, 32 + group / 2]) {
      if (!Number.isInteger(tokens)) continue;
      await t.step(`takes ${tokens} tokens in groups of ${group}`, async () => {
        await check(gpu, randomWeights("F32", 33, 64, 3), tokens, { group });
      });
    }
  }
  for (const cols of [2048, 4096, 16384]) {
    await t.step(`takes rows of ${cols}`, () => check(gpu, randomWeights("F16", 5, cols, 3), 32));
  }
  await t.step("adds to what is there", async () => {
    await check(gpu, randomWeights("Q8_0", 32, 320, 3), 1, { residual: true });
    await check(gpu, randomWeights("Q8_0", 32, 320, 3), 35, { residual: true });
  });
  await t.step("takes slices", async () => {
    await check(gpu, randomWeights("F16", 150, 64, 3), 5, { maxBytes: 64 * 128 });
    await check(gpu, randomWeights("Q8_0", 300, 64, 3), 35, { maxBytes: 128 * 64, paired: true });
  });
  await t.step("refuses what does not fit, by name", async () => {
    using weights = WeightMatrix.alloc(gpu, "w", { type: "F16", rows: 8, cols: 64 }, { texels: true });
    using buffers = WeightMatrix.alloc(gpu, "w", { type: "F16", rows: 8, cols: 64 });
    using other = WeightMatrix.alloc(gpu, "w", { type: "F16", rows: 8, cols: 128 }, { texels: true });
    using x = gpu.alloc("x", "f32", [33, 64]), out = gpu.alloc("out", "f32", [33, 9]);
    const op = await MatmulTexels.create(gpu, weights), f32 = await MatmulTexels.create(gpu, { type: "F32", cols: 64 });
    const list = gpu.commands();
    assertThrows(() => op.encode(list, weights, { x: out, out: x }), TypeError, "'x' must have shape [33,64]");
    assertThrows(() => op.encode(list, weights, { x, out }, { column: 2 }), TypeError, "must have 10 columns");
    assertThrows(() => f32.encode(list, weights, { x, out }), TypeError, "is for F32 weights");
    assertThrows(() => op.encode(list, buffers, { x, out }), TypeError, "in texels: these are in buffers");
    using wide = gpu.alloc("x", "f32", [33, 128]);
    assertThrows(() => op.encode(list, other, { x: wide, out }), TypeError, "is for 64 columns: they have 128");
    assertThrows(() => op.encode(list, weights, { x, out }), RangeError, "whole groups of 8 tokens");
    await assertRejects(() => MatmulTexels.create(gpu, { type: "F16", cols: 96 }), RangeError, "16384 columns: 96");
  });
});

Deno.test("tokenGroup() takes as many tokens as a uniform binding holds, of whole lines", () => {
  assertEquals([64, 2048, 2112, 4096, 5632, 8192, 11008, 16384].map(tokenGroup), [8, 8, 4, 4, 2, 2, 1, 1]);
  assertEquals([32, 96, 16448, 28672].map(tokenGroup), [0, 0, 0, 0]);
  for (let cols = 64; cols <= 16384; cols += 64) assert(tokenGroup(cols) * cols <= 16384);
});
