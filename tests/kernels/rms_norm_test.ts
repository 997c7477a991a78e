import { assertAlmostEquals, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { chooseRmsNormLanes, RmsNorm } from "../../src/kernels/rms_norm.ts";
import { rmsNormRef } from "../../src/ref/rms_norm.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { onEachText, poisoned } from "../_gpu.ts";

async function run(gpu: Gpu, x: Float32Array, gain: Float32Array, eps: number, lanes?: number): Promise<Float32Array> {
  const hidden = gain.length, tokens = x.length / hidden;
  const op = await RmsNorm.create(gpu, hidden, { lanes }), commands = gpu.commands();
  using xT = gpu.upload("x", "f32", [tokens, hidden], x);
  using gainT = gpu.upload("gain", "f32", [hidden], gain);
  using out = poisoned(gpu, "out", [tokens, hidden]);
  op.encode(commands, { x: xT, gain: gainT, out }, eps);
  commands.submit();
  return await gpu.readF32(out);
}

Deno.test("rms_norm", (t) =>
  onEachText(t, async (gpu, t) => {
    for (const [tokens, hidden, lanes] of [[1, 4, 32], [3, 512, 64], [2, 2052, 256], [7, 4096, 256]] as const) {
      await t.step(`is as accurate as f32 at ${tokens}x${hidden}, ${lanes} lanes`, async () => {
        const rng = new Rng(3), x = normals(rng, tokens * hidden, 5), gain = normals(rng, hidden);
        const actual = await run(gpu, x, gain, 1e-5, lanes);
        assertAsAccurateAs(actual, rmsNormRef(x, gain, 1e-5, Math.fround), rmsNormRef(x, gain, 1e-5));
      });
    }
    await t.step("keeps zeros, counts eps among small numbers, and bears one huge channel", async () => {
      const x = new Float32Array(24).fill(1e-3, 8, 16), gain = new Float32Array(8).fill(2);
      x[16] = 1e15;
      const out = await run(gpu, x, gain, 1e-6);
      assertEquals(out.subarray(0, 8), new Float32Array(8));
      for (const y of out.subarray(8, 16)) assertAlmostEquals(y, Math.SQRT2, 1e-5);
      assertAlmostEquals(out[16]!, 2 * Math.sqrt(8), 1e-5);
      assertEquals(out.subarray(17), new Float32Array(7));
    });
    await t.step("rejects wrong shapes and widths", async () => {
      const op = await RmsNorm.create(gpu, 8), x = gpu.alloc("x", "f32", [2, 8]), gain = gpu.alloc("g", "f32", [4]);
      assertThrows(
        () => op.encode(gpu.commands(), { x, gain, out: x }, 1e-6),
        TypeError,
        "'gain' must have shape [8]",
      );
      await assertRejects(() => RmsNorm.create(gpu, 6), RangeError, "a multiple of 4: there are 6");
    });
  }));

Deno.test("rmsNormRef() agrees with a case by hand", () => {
  const out = rmsNormRef(Float32Array.of(3, 4, 0, 0), Float32Array.of(1, 2, 3, 4), 0);
  [1.2, 3.2, 0, 0].forEach((want, i) => assertAlmostEquals(out[i]!, want, 1e-12));
});

Deno.test("chooseRmsNormLanes() stays within the device", () => {
  for (const hidden of [4, 512, 4096]) {
    for (const most of [64, 256, 1024]) assertEquals(chooseRmsNormLanes(hidden, most) <= most, true);
  }
});
