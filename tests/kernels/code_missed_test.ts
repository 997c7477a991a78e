import { assert, assertEquals, assertThrows } from "@std/assert";
import { fromF16Array, toF16Array } from "../../src/core/f16.ts";
import { BLOCK, blocks } from "../../src/core/pack.ts";
import { Rng } from "../../src/core/rng.ts";
import { codeMissedShapes } from "../../src/core/shapes.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { CodeMissed } from "../../src/kernels/code_missed.ts";
import { codeMissedRef } from "../../src/ref/code_missed.ts";
import { normals } from "../_assert.ts";

/** Thresholds that about a share of each head's errors pass, none of them near. */
function limitsOf(errors: Float64Array, heads: number, share: number): Float32Array {
  const tokens = errors.length / heads;
  return Float32Array.from({ length: heads }, (_, h) => {
    const own = errors.slice(h * tokens, (h + 1) * tokens).sort(), at = Math.round((1 - share) * tokens);
    return at === 0 ? 0 : (own[at]! + own[at - 1]!) / 2;
  });
}

Deno.test("code_missed", async (t) => {
  using gpu = await Gpu.create();
  const cases = [[1, 8, 1, 1, 0], [2, 64, 70, 0.3, 64], [3, 80, 33, 0.5, 32], [1, 256, 64, 0.1, 0]] as const;
  for (const [heads, headDim, tokens, share, scale] of cases) {
    await t.step(`tells whose error passes: ${heads} heads of ${headDim}, ${tokens} tokens`, async () => {
      const rng = new Rng(61), capacity = (blocks(tokens) + 1) * BLOCK, all = capacity + 64;
      const shapes = codeMissedShapes({ heads, headDim, tokens: capacity, scales: all });
      const data = normals(rng, heads * capacity * headDim), halves = toF16Array(normals(rng, all).map(Math.abs));
      const sizes = fromF16Array(halves).subarray(scale);
      const errors = codeMissedRef(data, sizes, { heads, headDim, tokens }, capacity);
      const limits = limitsOf(errors, heads, share);
      using residual = gpu.upload("residual", "f32", shapes.residual, data);
      using scales = gpu.upload("scales", "f16", shapes.scales, halves);
      using thresholds = gpu.upload("thresholds", "f32", shapes.thresholds, limits);
      using missed = gpu.upload("missed", "u32", shapes.missed, new Uint32Array(heads * capacity / 32).fill(0x5eed));
      const op = await CodeMissed.create(gpu, headDim), commands = gpu.commands();
      op.encode(commands, { residual, scales, thresholds, missed }, { tokens, scale });
      commands.submit();
      const found = await gpu.readU32(missed), rows = capacity / 32;
      for (let head = 0; head < heads; head++) {
        for (let block = 0; block < rows; block++) {
          let want = 0;
          for (let i = 0; i < 32 && 32 * block + i < tokens; i++) {
            if (errors[head * tokens + 32 * block + i]! > limits[head]!) want |= 1 << i;
          }
          assertEquals(found[head * rows + block], block < blocks(tokens) ? want >>> 0 : 0x5eed, `block ${block}`);
        }
      }
      assert(found.some((mask) => mask !== 0 && mask !== 0x5eed));
    });
  }
  await t.step("refuses tokens without residuals or scales", async () => {
    const shapes = codeMissedShapes({ heads: 1, headDim: 8, tokens: 64, scales: 64 }),
      op = await CodeMissed.create(gpu, 8);
    const x = (name: keyof typeof shapes) => gpu.alloc(name, name === "scales" ? "f16" : "f32", shapes[name]);
    const io = { residual: x("residual"), scales: x("scales"), thresholds: x("thresholds"), missed: x("missed") };
    for (const [tokens, scale] of [[65, 0], [33, 32], [1, 5]] as const) {
      assertThrows(() => op.encode(gpu.commands(), io, { tokens, scale }), RangeError, `among ${tokens} with scales`);
    }
    assertThrows(() => op.encode(gpu.commands(), { ...io, missed: io.residual }, { tokens: 1, scale: 0 }), TypeError);
  });
});
