import { assertEquals, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { readTexels } from "../_gpu.ts";

Deno.test("texels hold what is written to them, across rows, in any order", async () => {
  using gpu = await Gpu.create();
  const before = gpu.bytes, rng = new Rng(5);
  for (const [format, size, row] of [["rgba32uint", 16, 16384], ["r32uint", 4, 4096]] as const) {
    using texels = gpu.allocTexels("t", format, [5], 4 * row + size);
    assertEquals(gpu.bytes - before, 5 * row); // whole rows
    const want = new Uint8Array(5 * row), end = 4 * row + size;
    // Within a row, to its end, over its end, over whole rows, from a row's start, the rest.
    const cuts = [0, 3 * size, row - size, row, row + 2 * size, 2 * row + size, 4 * row, end];
    const pieces = cuts.slice(1).map((to, i) => [cuts[i]!, to] as const);
    for (const [from, to] of [...pieces.toReversed(), [size, end - size] as const]) {
      const piece = Uint8Array.from({ length: to - from }, () => rng.below(256));
      want.set(piece, from);
      gpu.write(texels, piece, from);
      assertEquals(await readTexels(gpu, texels), want, `${format} ${from} to ${to}`);
    }
    assertThrows(() => texels.write(new Uint8Array(size), 5 * row), RangeError, `${size} bytes at byte ${5 * row}`);
    assertThrows(() => texels.write(new Uint8Array(size), 2), RangeError, `in texels of ${size}`);
    assertThrows(() => texels.write(new Uint8Array(size - 1), 0), RangeError, `Cannot write ${size - 1} bytes`);
  }
  assertEquals(gpu.bytes, before);
});
