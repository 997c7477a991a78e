import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { fromF16Array } from "../../src/core/f16.ts";
import { Rng } from "../../src/core/rng.ts";
import { unitNormShapes } from "../../src/core/shapes.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { UnitNorm } from "../../src/kernels/unit_norm.ts";
import { unitNormRef } from "../../src/ref/unit_norm.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { onEachText, poisoned } from "../_gpu.ts";

interface Sample {
  readonly normed: Float32Array;
  readonly stats: Float32Array;
  readonly scale: Float32Array;
  readonly v: Float32Array;
}

function sample(layers: number, tokens: number, features: number, seed: number): Sample {
  const rng = new Rng(seed), count = layers * tokens;
  const stats = Float32Array.from(
    { length: 4 * count },
    (_, i) => [8 * rng.uniform(), 0.01 * rng.normal(), 0.1, 0.3][i % 4]!,
  );
  const scale = Float32Array.from({ length: layers * features }, () => 0.1 + rng.uniform());
  return { normed: normals(rng, count * features), stats, scale, v: normals(rng, count * features, 5) };
}

async function run(gpu: Gpu, { normed, stats, scale, v }: Sample, layers: number, backward: boolean, lanes = 64) {
  const features = scale.length / layers, tokens = v.length / features / layers;
  const shapes = unitNormShapes({ layers, tokens, features });
  using normedT = gpu.upload("normed", "f32", shapes.normed, normed);
  using statsT = gpu.upload("stats", "f32", shapes.stats, stats);
  using scaleT = gpu.upload("scale", "f32", shapes.scale, scale);
  using vT = gpu.upload("v", "f32", shapes.v, v);
  using scales = gpu.alloc("scales", "f16", shapes.scales);
  using errors = poisoned(gpu, "errors", shapes.errors);
  const op = await UnitNorm.create(gpu, features, backward, lanes), commands = gpu.commands();
  op.encode(commands, { normed: normedT, stats: statsT, scale: scaleT, v: vT, scales, errors }, { layers, tokens });
  commands.submit();
  const halves = new Uint16Array(await gpu.read(scales));
  return { v: await gpu.readF32(vT), scales: fromF16Array(halves), errors: await gpu.readF32(errors) };
}

/** The twin, layer by layer. */
function refs({ normed, stats, scale, v }: Sample, layers: number, backward: boolean, round?: (x: number) => number) {
  const part = (x: Float32Array, layer: number) =>
    x.subarray(layer * x.length / layers, (layer + 1) * x.length / layers);
  const each = Array.from(
    { length: layers },
    (_, l) => unitNormRef(part(normed, l), part(stats, l), part(scale, l), part(v, l), backward, round),
  );
  return {
    gradient: each.flatMap(({ gradient }) => [...gradient]),
    scales: each.flatMap(({ scales }) => [...scales]),
    errors: each.flatMap(({ errors }) => [...errors]),
  };
}

Deno.test("unit_norm", (t) =>
  onEachText(t, async (gpu, t) => {
    for (
      const [layers, tokens, features, lanes] of [[1, 1, 32, 32], [2, 3, 96, 64], [3, 4, 256, 64], [
        1,
        7,
        1024,
        128,
      ]] as const
    ) {
      await t.step(`is as accurate as f32 at ${layers}x${tokens}x${features}, ${lanes} lanes`, async () => {
        const s = sample(layers, tokens, features, 41);
        for (const backward of [true, false]) {
          const actual = await run(gpu, s, layers, backward, lanes);
          const naive = refs(s, layers, backward, Math.fround), exact = refs(s, layers, backward);
          assertAsAccurateAs(actual.errors, naive.errors, exact.errors);
          assertAsAccurateAs(actual.scales, naive.scales, exact.scales, 2 ** -11); // stored in half precision
          if (backward) assertAsAccurateAs(actual.v, naive.gradient, exact.gradient);
          else assertEquals(actual.v, s.v);
        }
      });
    }
    await t.step("gives zeros where the sum of codewords is zero", async () => {
      const s = sample(1, 2, 32, 42);
      s.v.fill(0, 0, 32);
      const { v, errors } = await run(gpu, s, 1, true);
      assert(v.subarray(0, 32).every((x) => x === 0));
      assert(v.subarray(32).every((x) => Number.isFinite(x) && x !== 0));
      assertAlmostEquals(errors[0]!, errors[1]!, 1e-4 * errors[1]!);
    });
    await t.step("rejects a wrong shape by name", async () => {
      const op = await UnitNorm.create(gpu, 32), x = gpu.alloc("x", "f32", [1, 2, 32]);
      const io = { normed: x, stats: x, scale: x, v: x, scales: x, errors: x };
      assertThrows(
        () => op.encode(gpu.commands(), io, { layers: 1, tokens: 2 }),
        TypeError,
        "'stats' must have shape [1,2,4]",
      );
    });
  }));

Deno.test("unitNormRef() has the gradient of its own loss", () => {
  const s = sample(1, 2, 32, 43), v = Float64Array.from(s.v);
  const loss = (x: Float64Array) => {
    const { errors } = unitNormRef(s.normed, s.stats, s.scale, x, true);
    return 0.5 * s.stats[3]! * errors[0]! + 0.5 * s.stats[7]! * errors[2]!;
  };
  const { gradient } = unitNormRef(s.normed, s.stats, s.scale, v, true);
  for (const i of [0, 5, 31, 32, 63]) {
    const up = v.slice(), down = v.slice();
    up[i]! += 1e-4;
    down[i]! -= 1e-4;
    assertAlmostEquals(gradient[i]!, (loss(up) - loss(down)) / 2e-4, 1e-7 + 1e-6 * Math.abs(gradient[i]!));
  }
});
