import { assertEquals, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { type EmDims, emReduceShapes } from "../../src/core/shapes.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { EmReduce } from "../../src/kernels/em_reduce.ts";
import { emReduceRef } from "../../src/ref/em_reduce.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { poisoned } from "../_gpu.ts";

Deno.test("em_reduce", async (t) => {
  using gpu = await Gpu.create();
  const op = await EmReduce.create(gpu);
  for (const [heads, tokens] of [[1, 1], [2, 32 * 1024], [1, 33 * 1024 + 1], [3, 70_000]] as const) {
    const dims: EmDims = { headDim: 8, heads, tokens, stage: { kind: "pair", tied: true } };
    await t.step(`is as accurate as f32 at ${heads} heads, ${tokens} tokens`, async () => {
      const shapes = emReduceShapes(dims), [, chunks, width] = shapes.sums as [number, number, number];
      const data = normals(new Rng(9), heads * chunks * width).map((x) => 3 + x);
      using sums = gpu.upload("sums", "f32", shapes.sums, data), out = poisoned(gpu, "out", shapes.out);
      const commands = gpu.commands();
      op.encode(commands, { sums, out }, dims);
      commands.submit();
      const exact = emReduceRef(data, heads, chunks);
      assertAsAccurateAs(await gpu.readF32(out), emReduceRef(data, heads, chunks, Math.fround), exact);
    });
  }
  await t.step("rejects a wrong shape by name", () => {
    const x = gpu.alloc("x", "f32", [1, 1, 8]), dims = { headDim: 8, heads: 1, tokens: 5 };
    const stage = { kind: "pair", tied: true } as const;
    assertThrows(
      () => op.encode(gpu.commands(), { sums: x, out: x }, { ...dims, stage }),
      TypeError,
      "'sums' must have shape",
    );
  });
});

Deno.test("emReduceRef() adds chunks of a head, not of others", () => {
  assertEquals([...emReduceRef([1, 2, 10, 20, 100, 200, 1000, 2000], 2, 2)], [11, 22, 1100, 2200]);
});
