import { assertAlmostEquals, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { Gelu } from "../../src/kernels/gelu.ts";
import { erf, geluBackwardRef, geluRef } from "../../src/ref/gelu.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";

async function run(gpu: Gpu, x: Float32Array, gradient?: Float32Array): Promise<Float32Array> {
  const op = await Gelu.create(gpu, gradient !== undefined), commands = gpu.commands();
  using xT = gpu.upload("x", "f32", [x.length], x);
  using y = gpu.upload("y", "f32", [x.length], gradient ?? new Float32Array(x.length).fill(NaN));
  op.encode(commands, { x: xT, y });
  commands.submit();
  return await gpu.readF32(y);
}

Deno.test("gelu", async (t) => {
  using gpu = await Gpu.create();
  const grid = Float32Array.from({ length: 4000 }, (_, i) => (i - 2000) / 250);
  for (
    const [name, x] of [["a grid", grid], ["normals", normals(new Rng(1), 1028)], [
      "zeros",
      new Float32Array(4),
    ]] as const
  ) {
    await t.step(`is as accurate as f32 on ${name}`, async () => {
      assertAsAccurateAs(await run(gpu, x), geluRef(x, Math.fround), geluRef(x));
    });
    await t.step(`has a gradient as accurate as f32 on ${name}`, async () => {
      const gradient = normals(new Rng(2), x.length);
      const naive = geluBackwardRef(x, gradient, Math.fround);
      assertAsAccurateAs(await run(gpu, x, gradient), naive, geluBackwardRef(x, gradient));
    });
  }
  await t.step("rejects a wrong shape by name", async () => {
    const op = await Gelu.create(gpu), x = gpu.alloc("x", "f32", [8]), y = gpu.alloc("y", "f32", [4]);
    assertThrows(() => op.encode(gpu.commands(), { x, y }), TypeError, "'y' must have shape [8]");
  });
});

Deno.test("erf() agrees with published digits", () => {
  for (
    const [x, want] of [[0, 0], [0.5, 0.5204998778130465], [-1, -0.8427007929497149], [3, 0.9999779095030014]] as const
  ) {
    assertAlmostEquals(erf(x), want, 1e-14);
  }
});

Deno.test("geluBackwardRef() is the gradient of geluRef()", () => {
  for (const x of [-3, -0.7, 0, 0.2, 2]) {
    const [up, down] = geluRef(Float64Array.of(x + 1e-5, x - 1e-5)) as unknown as [number, number];
    assertAlmostEquals(geluBackwardRef(Float64Array.of(x), Float64Array.of(2))[0]!, (up - down) / 1e-5, 1e-9);
  }
});
