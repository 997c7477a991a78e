import { assertEquals, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { emReduceShapes } from "../../src/core/shapes.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { EmReduce } from "../../src/kernels/em_reduce.ts";
import { emReduceRef } from "../../src/ref/em_reduce.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { poisoned } from "../_gpu.ts";

Deno.test("em_reduce", async (t) => {
  using gpu = await Gpu.create();
  const op = await EmReduce.create(gpu);
  for (const [heads, parts, width] of [[1, 1, 4], [2, 32, 4100], [1, 33, 12], [3, 70, 260], [1, 3000, 64]] as const) {
    await t.step(`is as accurate as f32 at ${heads}x${parts}x${width}`, async () => {
      const shapes = emReduceShapes({ heads, parts, width });
      const data = normals(new Rng(9), heads * parts * width).map((x) => 3 + x);
      using input = gpu.upload("parts", "f32", shapes.parts, data), out = poisoned(gpu, "out", shapes.out);
      const commands = gpu.commands();
      op.encode(commands, { parts: input, out });
      commands.submit();
      const exact = emReduceRef(data, heads, parts);
      assertAsAccurateAs(await gpu.readF32(out), emReduceRef(data, heads, parts, Math.fround), exact);
    });
  }
  await t.step("rejects a wrong shape by name", () => {
    const parts = gpu.alloc("parts", "f32", [1, 2, 8]);
    assertThrows(() => op.encode(gpu.commands(), { parts, out: parts }), TypeError, "'out' must have shape [1,8]");
    const odd = gpu.alloc("odd", "f32", [1, 2, 6]), out = gpu.alloc("out", "f32", [1, 6]);
    assertThrows(() => op.encode(gpu.commands(), { parts: odd, out }), RangeError, "a multiple of 4: it is 6");
  });
});

Deno.test("emReduceRef() adds chunks of a head, not of others", () => {
  assertEquals([...emReduceRef([1, 2, 10, 20, 100, 200, 1000, 2000], 2, 2)], [11, 22, 1100, 2200]);
});
