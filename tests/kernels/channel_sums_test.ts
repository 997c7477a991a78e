import { assertEquals, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { channelSumsShapes } from "../../src/core/shapes.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { ChannelSums, chooseChannelChunk } from "../../src/kernels/channel_sums.ts";
import { channelSumsRef } from "../../src/ref/channel_sums.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { poisoned } from "../_gpu.ts";

Deno.test("channel_sums", async (t) => {
  using gpu = await Gpu.create();
  for (const [rows, features, chunk] of [[1, 32, 1], [7, 96, 3], [600, 64, 256], [33, 256, 16]] as const) {
    await t.step(`is as accurate as f32 at ${rows}x${features} in chunks of ${chunk}`, async () => {
      const values = normals(new Rng(61), rows * features),
        shapes = channelSumsShapes(rows, features, Math.ceil(rows / chunk));
      using valuesT = gpu.upload("values", "f32", shapes.values, values);
      using out = poisoned(gpu, "out", shapes.out);
      const op = await ChannelSums.create(gpu), commands = gpu.commands();
      op.encode(commands, { values: valuesT, out }, chunk);
      commands.submit();
      const naive = channelSumsRef(values, features, chunk, Math.fround);
      assertAsAccurateAs(await gpu.readF32(out), naive, channelSumsRef(values, features, chunk));
    });
  }
  await t.step("rejects a wrong shape by name", async () => {
    const op = await ChannelSums.create(gpu), values = gpu.alloc("values", "f32", [8, 32]);
    assertThrows(
      () => op.encode(gpu.commands(), { values, out: values }, 4),
      TypeError,
      "'out' must have shape [2,32,4]",
    );
  });
});

Deno.test("channelSumsRef() agrees with sums by hand", () => {
  assertEquals([...channelSumsRef(Float32Array.of(1, -2, 3), 1, 2)], [3, -1, 5, 0, 3, 3, 9, 0]);
});

Deno.test("chooseChannelChunk() makes at most 512 chunks", () => {
  for (const rows of [1, 256, 131_072, 1_048_577]) {
    assertEquals(Math.ceil(rows / chooseChannelChunk(rows)) <= 512, true);
  }
});
