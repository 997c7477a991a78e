import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { type GemmDims, type GemmForm, gemmShapes } from "../../src/core/shapes.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { elements } from "../../src/gpu/tensor.ts";
import { chooseGemmTile, Gemm, gemmBytes, type GemmTile } from "../../src/kernels/gemm.ts";
import { gemmRef } from "../../src/ref/gemm.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";

/** Runs one product; numbers that no part of c owns are 0 before and after, all others NaN before. */
async function run(gpu: Gpu, form: GemmForm, dims: GemmDims, seed: number, tile?: GemmTile) {
  const shapes = gemmShapes(form, dims), rng = new Rng(seed);
  const a = normals(rng, elements(shapes.a)), b = normals(rng, elements(shapes.b));
  const op = await Gemm.create(gpu, form, dims.n, { tile });
  const owned = gemmRef(new Float32Array(a.length).fill(1), new Float32Array(b.length).fill(1), form, dims);
  using aT = gpu.upload("a", "f32", shapes.a, a);
  using bT = gpu.upload("b", "f32", shapes.b, b);
  using cT = gpu.upload("c", "f32", shapes.c, Float32Array.from(owned, (x) => x === 0 ? 0 : NaN));
  const commands = gpu.commands();
  op.encode(commands, { a: aT, b: bT, c: cT }, dims);
  commands.submit();
  return { c: await gpu.readF32(cT), a, b };
}

const FORMS: readonly GemmForm[] = [
  {},
  { bT: true },
  { aT: true },
  { aT: true, bT: true },
  { bT: true, bias: true },
  { aT: true, bias: true },
];

Deno.test("gemm", async (t) => {
  using gpu = await Gpu.create();
  for (const form of FORMS) {
    for (const [batch, m, n, k] of [[1, 4, 4, 4], [2, 68, 132, 20], [3, 32, 64, 100], [1, 132, 36, 260]] as const) {
      for (const tile of [32, 64, 128] as const) {
        const splits = form.aT && !form.bT
          ? { count: 3, apart: batch * (m * n + m + 4) + 8, stride: m * n + m + 4 }
          : undefined;
        const dims = { batch, m, n, k, splits };
        await t.step(`is as accurate as f32: ${JSON.stringify({ ...form, ...dims })}, tile ${tile}`, async () => {
          const { c, a, b } = await run(gpu, form, dims, 5, tile);
          assertAsAccurateAs(c, gemmRef(a, b, form, dims, Math.fround), gemmRef(a, b, form, dims));
        });
      }
    }
  }
  await t.step("takes any number of rows", async () => {
    const dims = { batch: 2, m: 33, n: 8, k: 12 };
    const { c, a, b } = await run(gpu, {}, dims, 6);
    assertAsAccurateAs(c, gemmRef(a, b, {}, dims, Math.fround), gemmRef(a, b, {}, dims));
  });
  await t.step("steps over what lies between matrices of b", async () => {
    const dims = { batch: 2, m: 8, n: 12, k: 16, bStride: 12 * 16 + 20 };
    const { c, a, b } = await run(gpu, {}, dims, 7);
    assertAsAccurateAs(c, gemmRef(a, b, {}, dims, Math.fround), gemmRef(a, b, {}, dims));
  });
  await t.step("gives the same bits at every tile", async () => {
    const dims = { batch: 1, m: 72, n: 40, k: 200, splits: { count: 4, apart: 72 * 40, stride: 72 * 40 } };
    const [small, ...larger] = await Promise.all(
      ([32, 64, 128] as const).map(async (tile) => (await run(gpu, { aT: true }, dims, 8, tile)).c),
    );
    for (const c of larger) assertEquals(c, small);
  });
  await t.step("rejects a wrong shape, a ragged row and a bias without a place, by name", async () => {
    const op = await Gemm.create(gpu, {}, 8),
      x = gpu.alloc("x", "f32", [1, 8, 8]),
      y = gpu.alloc("y", "f32", [1, 8, 6]);
    const encode = (n: number) => op.encode(gpu.commands(), { a: x, b: y, c: y }, { batch: 1, m: 8, n, k: 8 });
    assertThrows(() => encode(4), TypeError, "'b' must have shape [1,8,4]");
    assertThrows(() => encode(6), RangeError, "multiples of 4");
    await assertRejects(() => Gemm.create(gpu, { bias: true }, 8), RangeError, "bias");
  });
});

Deno.test("gemmRef() agrees with products by hand", () => {
  const a = Float32Array.of(1, 2, 3, 4), b = Float32Array.of(5, 6, 7, 8), dims = { batch: 1, m: 2, n: 2, k: 2 };
  assertEquals([...gemmRef(a, b, {}, dims)], [19, 22, 43, 50]);
  assertEquals([...gemmRef(a, b, { aT: true }, dims)], [26, 30, 38, 44]);
  assertEquals([...gemmRef(a, Float32Array.of(...b, 100, 200), { bT: true, bias: true }, dims)], [117, 223, 139, 253]);
  const splits = { count: 1, apart: 0, stride: 6 };
  assertEquals([...gemmRef(a, b, { aT: true, bias: true }, { ...dims, splits })], [26, 30, 38, 44, 4, 6]);
});

Deno.test("chooseGemmTile() stays within the device and the product", () => {
  for (const lanes of [64, 128, 256, 1024]) {
    for (const workgroupBytes of [4096, 16384, 32768]) {
      for (const n of [4, 64, 100, 4096]) {
        const tile = chooseGemmTile(n, { lanes, workgroupBytes });
        assertEquals(tile === 32 || tile ** 2 / 64 <= lanes && gemmBytes(tile) <= workgroupBytes && tile < 2 * n, true);
      }
    }
  }
  assertEquals(chooseGemmTile(512, { lanes: 256, workgroupBytes: 32768 }), 128);
});
