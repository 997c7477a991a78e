import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { layerNormShapes } from "../../src/core/shapes.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { LayerNorm } from "../../src/kernels/layer_norm.ts";
import { drawnRows, layerNormRef } from "../../src/ref/layer_norm.ts";
import { random4 } from "../../src/ref/random.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { onEachText, poisoned } from "../_gpu.ts";

/** Fills layer 1 of 2; layer 0 must stay NaN. */
async function run(gpu: Gpu, values: Float32Array, scale: Float32Array, tokens: number, draw: boolean, lanes = 64) {
  const features = scale.length / 2, rows = values.length / features;
  const shapes = layerNormShapes({ layers: 2, tokens, rows, features });
  using valuesT = gpu.upload("values", "f32", shapes.values, values);
  using scaleT = gpu.upload("scale", "f32", shapes.scale, scale);
  using normed = poisoned(gpu, "normed", shapes.normed);
  using stats = poisoned(gpu, "stats", shapes.stats);
  const op = await LayerNorm.create(gpu, features, { draw, lanes }), commands = gpu.commands();
  const choice = { layer: 1, first: 2, seed: 9, step: 4, weight: 0.75 };
  op.encode(commands, { values: valuesT, scale: scaleT, normed, stats }, { layers: 2, tokens }, choice);
  commands.submit();
  const all = await gpu.readF32(normed), allStats = await gpu.readF32(stats);
  assert(all.subarray(0, tokens * features).every(Number.isNaN));
  return { normed: all.subarray(tokens * features), stats: allStats.subarray(4 * tokens) };
}

Deno.test("layer_norm", (t) =>
  onEachText(t, async (gpu, t) => {
    for (const [features, tokens, lanes] of [[32, 7, 32], [256, 5, 64], [1024, 3, 64], [96, 4, 256]] as const) {
      for (const draw of [false, true]) {
        await t.step(`is as accurate as f32 at F=${features}, ${lanes} lanes, draw=${draw}`, async () => {
          const rng = new Rng(3), values = normals(rng, 11 * features);
          const scale = Float32Array.from({ length: 2 * features }, () => 0.1 + rng.uniform());
          values.fill(0, 3 * features, 4 * features); // a token of zeros, taken by rows in order
          const rows = draw ? drawnRows(11, tokens, 9, 4) : Array.from({ length: tokens }, (_, i) => 2 + i);
          const actual = await run(gpu, values, scale, tokens, draw, lanes), own = scale.subarray(features);
          const naive = layerNormRef(values, own, rows, 0.75, Math.fround),
            exact = layerNormRef(values, own, rows, 0.75);
          assertAsAccurateAs(actual.normed, naive.normed, exact.normed);
          assertAsAccurateAs(actual.stats, naive.stats, exact.stats);
        });
      }
    }
    await t.step("rejects a wrong shape by name", async () => {
      const op = await LayerNorm.create(gpu, 32), x = gpu.alloc("x", "f32", [4, 32]);
      const io = { values: x, scale: x, normed: x, stats: x };
      const encode = () => op.encode(gpu.commands(), io, { layers: 1, tokens: 2 }, { layer: 0 });
      assertThrows(encode, TypeError, "'scale' must have shape [1,32]");
    });
  }));

Deno.test("layerNormRef() gives mean 0, variance 1 and what undoes it", () => {
  const values = normals(new Rng(4), 64),
    scale = new Float32Array(64).fill(2),
    { normed, stats } = layerNormRef(values, scale, [0], 1);
  const [p, mean, deviation] = stats as unknown as [number, number, number];
  assertAlmostEquals(normed.reduce((a, b) => a + b) / 64, 0, 1e-12);
  const square = normed.reduce((a, b) => a + b * b, 0) / 64;
  assertAlmostEquals(square * deviation ** 2, deviation ** 2 - 1e-5, 1e-12);
  normed.forEach((x, f) => assertAlmostEquals(p * 2 * (x * deviation + mean), values[f]!, 1e-9));
});

Deno.test("random4() fills its range evenly and depends on every word of the counter", () => {
  const base = random4([1, 2, 3, 4]);
  for (let i = 0; i < 4; i++) {
    const counter: [number, number, number, number] = [1, 2, 3, 4];
    counter[i]! += 1;
    random4(counter).forEach((word, j) => assert(word !== base[j], `word ${j} ignores counter ${i}`));
  }
  const counts = new Float64Array(16), draws = 20_000;
  for (let i = 0; i < draws / 4; i++) random4([i, 0, 7, 1]).forEach((word) => counts[word >>> 28]!++);
  const chi2 = counts.reduce((sum, n) => sum + (n - draws / 16) ** 2 / (draws / 16), 0);
  assert(chi2 > 2 && chi2 < 45, `chi-squared of 15 degrees of freedom is ${chi2}`);
  assertEquals(new Set(drawnRows(1000, 500, 1, 0)).size > 350, true);
});
