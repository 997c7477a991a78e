import { assert, assertEquals, assertThrows } from "@std/assert";
import { fromF16Array, toF16Array } from "../../src/core/f16.ts";
import { BLOCK } from "../../src/core/pack.ts";
import { Rng } from "../../src/core/rng.ts";
import { codeSelectShapes } from "../../src/core/shapes.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { CodeSelect } from "../../src/kernels/code_select.ts";
import { tokenErrorsRef } from "../../src/ref/code_select.ts";
import { normals } from "../_assert.ts";

Deno.test("code_select", async (t) => {
  using gpu = await Gpu.create();
  for (const [heads, headDim, tokens, capacity] of [[1, 8, 1, 32], [3, 80, 70, 128], [2, 64, 64, 64]] as const) {
    await t.step(`takes tokens by their error: ${heads} heads of ${headDim}, ${tokens} of ${capacity}`, async () => {
      const dims = { heads, headDim, tokens, capacity, scales: capacity },
        shapes = codeSelectShapes(dims),
        rng = new Rng(3);
      const data = normals(rng, heads * capacity * headDim), halves = toF16Array(normals(rng, capacity).map(Math.abs));
      const errors = tokenErrorsRef(data, fromF16Array(halves), dims, capacity);
      const limits = Float32Array.from({ length: heads }, (_, h) => { // a quarter passes, none is near
        const own = errors.slice(h * tokens, (h + 1) * tokens).sort(), at = Math.floor(0.75 * tokens);
        return ((own[at] ?? 0) + (own[at - 1] ?? 0)) / 2;
      });
      using residual = gpu.upload("residual", "f32", shapes.residual, data);
      using scales = gpu.upload("scales", "f16", [capacity], halves);
      using thresholds = gpu.upload("thresholds", "f32", [heads], limits);
      const size = heads * tokens * headDim / 2, numbers = Uint32Array.from({ length: size }, (_, i) => i + 1);
      using fromCache = gpu.upload("from", "u32", shapes.fromCache, numbers);
      using toCache = gpu.upload("to", "u32", shapes.toCache, new Uint32Array(size));
      using picked = gpu.upload("picked", "u32", shapes.picked, new Uint32Array(heads * tokens).fill(7));
      const op = await CodeSelect.create(gpu, headDim), commands = gpu.commands();
      op.encode(commands, { residual, scales, thresholds, fromCache, toCache, picked });
      commands.submit();
      const want = Uint32Array.from(errors, (error, i) => error > limits[Math.floor(i / tokens)]! ? 1 : 0);
      assertEquals(await gpu.readU32(picked), want);
      assert(want.includes(1) && (tokens === 1 || want.includes(0)));
      assertEquals(await gpu.readU32(toCache), numbers.map((x, i) => x * want[Math.floor(i / (headDim / 2))]!));
    });
  }
  await t.step("refuses more tokens than there are residuals", async () => {
    const shapes = codeSelectShapes({ heads: 1, headDim: 8, tokens: 40, capacity: BLOCK, scales: 64 });
    const x = (name: keyof typeof shapes) => gpu.alloc(name, "u32", shapes[name]), op = await CodeSelect.create(gpu, 8);
    const io = { residual: x("residual"), scales: x("scales"), thresholds: x("thresholds"), picked: x("picked") };
    const caches = { fromCache: x("fromCache"), toCache: x("toCache") };
    assertThrows(
      () => op.encode(gpu.commands(), { ...io, ...caches }),
      RangeError,
      "40 tokens as there are residuals of 32",
    );
    assertThrows(() => op.encode(gpu.commands(), { ...io, ...caches, picked: io.scales }), TypeError, "'picked'");
  });
});
