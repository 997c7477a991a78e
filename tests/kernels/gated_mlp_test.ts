import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { GatedMlp } from "../../src/kernels/gated_mlp.ts";
import { gatedMlpRef } from "../../src/ref/gated_mlp.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { poisoned } from "../_gpu.ts";

async function run(gpu: Gpu, gateUp: Float32Array, tokens: number): Promise<Float32Array> {
  const ffn = gateUp.length / tokens / 2, op = await GatedMlp.create(gpu), commands = gpu.commands();
  using gateUpT = gpu.upload("gate_up", "f32", [tokens, 2 * ffn], gateUp);
  using out = poisoned(gpu, "out", [tokens, ffn]);
  op.encode(commands, { gateUp: gateUpT, out });
  commands.submit();
  return await gpu.readF32(out);
}

Deno.test("gated_mlp", async (t) => {
  using gpu = await Gpu.create(); // its text has no subgroups
  for (const [tokens, ffn] of [[1, 4], [3, 1028], [5, 1376], [65537, 4]] as const) {
    await t.step(`is as accurate as f32 at ${tokens}x${ffn}`, async () => {
      const gateUp = normals(new Rng(4), tokens * 2 * ffn);
      assertAsAccurateAs(
        await run(gpu, gateUp, tokens),
        gatedMlpRef(gateUp, tokens, Math.fround),
        gatedMlpRef(gateUp, tokens),
      );
    });
  }
  await t.step("stays finite for gates of any size", async () => {
    const gates = [0, -0, 50, -50, 90, -90, 1e4, -1e4, 3e38, -3e38, 1e-38, -1];
    const out = await run(gpu, Float32Array.from([...gates, ...gates.map(() => 1)]), 1);
    assert(out.every(Number.isFinite), `${out}`);
    assertEquals([out[0], out[6], Math.abs(out[7]!), out[8], Math.abs(out[9]!)], [0, 1e4, 0, Math.fround(3e38), 0]);
    assertAlmostEquals(out[11]!, -1 / (1 + Math.E), 1e-6);
  });
  await t.step("rejects wrong shapes and widths", async () => {
    const op = await GatedMlp.create(gpu), x = gpu.alloc("x", "f32", [2, 8]), y = gpu.alloc("y", "f32", [2, 3]);
    assertThrows(
      () => op.encode(gpu.commands(), { gateUp: x, out: x }),
      TypeError,
      "'gateUp' must have shape [2,16]",
    );
    const narrow = gpu.alloc("z", "f32", [2, 6]);
    assertThrows(() => op.encode(gpu.commands(), { gateUp: narrow, out: y }), RangeError, "there are 3");
  });
});

Deno.test("gatedMlpRef() agrees with a case by hand", () => {
  const out = gatedMlpRef(Float32Array.of(0, Math.log(3), 2, 4), 1);
  assertEquals(out[0], 0);
  assertAlmostEquals(out[1]!, Math.log(3) * 0.75 * 4, 1e-6);
});
