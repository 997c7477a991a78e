import { assertAlmostEquals, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { layerNormFoldShapes, valueWidths } from "../../src/core/shapes.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { elements } from "../../src/gpu/tensor.ts";
import { LayerNormFold } from "../../src/kernels/layer_norm_fold.ts";
import { layerNormFoldRef, layerNormUnfoldRef } from "../../src/ref/layer_norm_fold.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { onEachText, poisoned } from "../_gpu.ts";

const SLABS = { count: 3, apart: 0 };

async function run(gpu: Gpu, features: number, linear: Float32Array, gradients?: Float32Array, slabs = SLABS) {
  const widths = valueWidths({ features, bits: 1 }), layers = linear.length / widths.linear1;
  const op = await LayerNormFold.create(gpu, features, widths, gradients !== undefined);
  const shapes = layerNormFoldShapes(layers, widths, gradients && slabs);
  using linearT = gpu.upload("linear", "f32", shapes.linear, linear);
  using folded = gradients
    ? gpu.upload("gradients", "f32", shapes.folded, gradients)
    : poisoned(gpu, "folded", shapes.folded);
  const commands = gpu.commands();
  op.encode(commands, { linear: linearT, folded }, layers, gradients && slabs);
  commands.submit();
  return await gpu.readF32(folded);
}

Deno.test("layer_norm_fold", (t) =>
  onEachText(t, async (gpu, t) => {
    for (const features of [32, 96]) {
      const widths = valueWidths({ features, bits: 1 }), { linear1, folded } = widths, layers = 2;
      const linear = normals(new Rng(11), layers * linear1),
        of = (layer: number) => linear.subarray(layer * linear1, (layer + 1) * linear1);
      await t.step(`folds as accurately as f32 at F=${features}`, async () => {
        const actual = await run(gpu, features, linear);
        for (let layer = 0; layer < layers; layer++) {
          const naive = layerNormFoldRef(of(layer), features, widths, Math.fround);
          const part = actual.subarray(layer * folded, (layer + 1) * folded);
          assertAsAccurateAs(part, naive, layerNormFoldRef(of(layer), features, widths));
        }
      });
      await t.step(`parts gradients as accurately as f32 at F=${features}`, async () => {
        const slabs = { count: 3, apart: layers * linear1 + 64 };
        const size = elements(layerNormFoldShapes(layers, widths, slabs).folded), given = normals(new Rng(12), size);
        const actual = await run(gpu, features, linear, given, slabs);
        for (let at = 0, slab = 0; slab < slabs.count; slab++) {
          for (let layer = 0; layer < layers; layer++) {
            at = slab * slabs.apart + layer * linear1;
            const gradient = given.subarray(at, at + folded);
            const naive = layerNormUnfoldRef(of(layer), gradient, features, widths, Math.fround);
            assertAsAccurateAs(
              actual.subarray(at, at + linear1),
              naive,
              layerNormUnfoldRef(of(layer), gradient, features, widths),
            );
          }
        }
      });
    }
    await t.step("rejects a wrong shape by name", async () => {
      const widths = valueWidths({ features: 32, bits: 1 }), op = await LayerNormFold.create(gpu, 32, widths);
      const x = gpu.alloc("x", "f32", [1, 32]);
      assertThrows(() => op.encode(gpu.commands(), { linear: x, folded: x }, 1), TypeError, "'linear' must have shape");
    });
  }));

Deno.test("layerNormUnfoldRef() is the gradient of layerNormFoldRef()", () => {
  const features = 32, widths = valueWidths({ features, bits: 1 }), rng = new Rng(13);
  const linear = Float64Array.from(normals(rng, widths.linear1)), direction = normals(rng, widths.folded);
  const value = (x: Float64Array) =>
    layerNormFoldRef(x, features, widths).reduce((sum, y, i) => sum + y * direction[i]!, 0);
  const gradient = layerNormUnfoldRef(linear, direction, features, widths);
  for (const i of [0, 31, 500, widths.folded - 1, widths.folded, widths.folded + 31, widths.linear1 - 1]) {
    const up = linear.slice(), down = linear.slice();
    up[i]! += 1e-4;
    down[i]! -= 1e-4;
    assertAlmostEquals(gradient[i]!, (value(up) - value(down)) / 2e-4, 1e-6 * (1 + Math.abs(gradient[i]!)));
  }
});
