import { assertAlmostEquals, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { AdamW } from "../../src/kernels/adamw.ts";
import { adamwRef } from "../../src/ref/adamw.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";

const SETTINGS = { rate: 1e-2, decay: 0.1, beta1: 0.9, beta2: 0.95 };

Deno.test("adamw", async (t) => {
  using gpu = await Gpu.create();
  for (const [count, slabs] of [[4, 1], [1028, 3], [5000, 8]] as const) {
    await t.step(`is as accurate as f32 over three steps at P=${count} I=${slabs}`, async () => {
      const rng = new Rng(51), start = normals(rng, count), op = await AdamW.create(gpu);
      using parameters = gpu.upload("parameters", "f32", [count], start);
      using gradients = gpu.alloc("gradients", "f32", [slabs, count]);
      using mean = gpu.alloc("mean", "f32", [count]);
      using square = gpu.alloc("square", "f32", [count]);
      const state = () => ({
        parameters: Float64Array.from(start),
        mean: new Float64Array(count),
        square: new Float64Array(count),
      });
      const exact = state(), naive = state();
      for (let step = 1; step <= 3; step++) {
        const g = normals(rng, slabs * count, 1e-3), commands = gpu.commands();
        for (let i = 0; i < slabs * count; i += count) g[i] = 0; // a parameter without gradient only decays
        gpu.write(gradients, g);
        op.encode(commands, { parameters, gradients, mean, square }, { step, ...SETTINGS });
        commands.submit();
        adamwRef(exact, g, { step, ...SETTINGS });
        adamwRef(naive, g, { step, ...SETTINGS }, Math.fround);
      }
      assertAsAccurateAs(await gpu.readF32(parameters), naive.parameters, exact.parameters);
      assertAsAccurateAs(await gpu.readF32(mean), naive.mean, exact.mean);
      assertAsAccurateAs(await gpu.readF32(square), naive.square, exact.square);
    });
  }
  await t.step("rejects a wrong shape by name", async () => {
    const op = await AdamW.create(gpu), x = gpu.alloc("x", "f32", [8]), g = gpu.alloc("g", "f32", [2, 4]);
    const io = { parameters: x, gradients: g, mean: x, square: x };
    assertThrows(
      () => op.encode(gpu.commands(), io, { step: 1, ...SETTINGS }),
      TypeError,
      "'gradients' must have shape [2,8]",
    );
  });
});

Deno.test("adamwRef() agrees with a first step by hand", () => {
  const state = { parameters: Float64Array.of(2), mean: new Float64Array(1), square: new Float64Array(1) };
  adamwRef(state, Float64Array.of(-3, -1), { step: 1, ...SETTINGS });
  // The first step goes against the gradient's sign by the whole rate, after decay.
  assertAlmostEquals(state.parameters[0]!, 2 * (1 - 1e-3) + 1e-2, 1e-9);
});
