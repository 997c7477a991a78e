import { assertEquals, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { chooseMatmulTile, Matmul, MATMUL_TILES, matmulBytes, type MatmulTile } from "../../src/kernels/matmul.ts";
import { WeightMatrix } from "../../src/kernels/weights.ts";
import { matmulRef } from "../../src/ref/matmul.ts";
import { matvecRef } from "../../src/ref/matvec.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { onEachText } from "../_gpu.ts";
import { randomWeights, type Sample, TYPES } from "./_weights.ts";

interface Options {
  readonly residual?: boolean;
  readonly tiles?: readonly MatmulTile[];
  readonly paired?: boolean;
  readonly maxBytes?: number;
}

/** Runs one product into the middle of wider rows, and checks it, and that nothing else was written. */
async function check(gpu: Gpu, sample: Sample, tokens: number, options: Options = {}): Promise<void> {
  const { rows, cols, numbers } = sample, rng = new Rng(tokens), stride = rows + 3;
  const xs = normals(rng, tokens * cols), old = normals(rng, tokens * stride, options.residual ? 1 : NaN);
  using weights = WeightMatrix.alloc(gpu, "weights", sample, options);
  weights.write(0, sample.file);
  using x = gpu.upload("x", "f32", [tokens, cols], xs), out = gpu.upload("out", "f32", [tokens, stride], old);
  const op = await Matmul.create(gpu, sample.type, options), commands = gpu.commands();
  op.encode(commands, weights, { x, out }, { column: 2 });
  commands.submit();
  const actual = await gpu.readF32(out), inside = (i: number): boolean => i % stride >= 2 && i % stride < rows + 2;
  const residual = options.residual ? old.filter((_, i) => inside(i)) : undefined;
  const naive = matmulRef(numbers, xs, cols, residual, Math.fround), exact = matmulRef(numbers, xs, cols, residual);
  assertAsAccurateAs(actual.filter((_, i) => inside(i)), naive, exact);
  assertEquals(actual.filter((_, i) => !inside(i)), old.filter((_, i) => !inside(i)));
}

Deno.test("matmul", (t) =>
  onEachText(t, async (gpu, t) => {
    for (const tile of MATMUL_TILES) {
      const name = `tiles of ${tile}`;
      for (const type of TYPES) {
        await t.step(`is as accurate as f32 for ${type} in ${name}`, async () => {
          await check(gpu, randomWeights(type, 37, type.endsWith("K") ? 256 : 96, 3), 21, { tiles: [tile] });
        });
      }
      for (const tokens of [1, tile, tile + 1, 2 * tile + 1]) {
        await t.step(`takes ${tokens} tokens in ${name}`, async () => {
          await check(gpu, randomWeights("F32", tile + 1, 44, 3), tokens, { tiles: [tile] });
        });
      }
      await t.step(`adds to what is there in ${name}`, async () => {
        await check(gpu, randomWeights("Q8_0", tile, 288, 3), 5, { tiles: [tile], residual: true });
      });
      await t.step(`takes slices in ${name}`, async () => {
        await check(gpu, randomWeights("F16", 150, 20, 3), 5, { tiles: [tile], maxBytes: 64 * 64 });
        await check(gpu, randomWeights("Q8_0", 300, 32, 3), 5, { tiles: [tile], maxBytes: 128 * 32, paired: true });
      });
    }
    await t.step("refuses what does not fit, by name", async () => {
      using weights = WeightMatrix.alloc(gpu, "w", { type: "F16", rows: 8, cols: 64 });
      using x = gpu.alloc("x", "f32", [3, 64]), out = gpu.alloc("out", "f32", [3, 9]);
      const op = await Matmul.create(gpu, "F16"),
        other = await Matmul.create(gpu, "F32"),
        list = gpu.commands();
      assertThrows(() => op.encode(list, weights, { x: out, out: x }), TypeError, "'x' must have shape [3,64]");
      assertThrows(() => op.encode(list, weights, { x, out }, { column: 2 }), TypeError, "must have 10 columns");
      assertThrows(() => other.encode(list, weights, { x, out }), TypeError, "is for F32 weights");
    });
  }));

Deno.test("matmulRef() agrees with matvecRef() token by token", () => {
  const rng = new Rng(1), w = normals(rng, 6 * 8), x = normals(rng, 3 * 8);
  const each = [0, 1, 2].flatMap((t) => [...matvecRef(w, x.subarray(8 * t, 8 * t + 8))]);
  assertEquals([...matmulRef(w, x, 8)], each);
});

Deno.test("chooseMatmulTile() takes the largest tile that fills a GPU", () => {
  const chosen = (shapes: [tokens: number, rows: number][], tiles = MATMUL_TILES): number[] =>
    shapes.map(([tokens, rows]) => chooseMatmulTile(tokens, rows, tiles));
  assertEquals(chosen([[2, 4096], [16, 65536]]), [16, 16]);
  assertEquals(chosen([[17, 65536], [128, 4096], [64, 65536]]), [32, 32, 32]);
  assertEquals(chosen([[65, 28672], [256, 4096], [4096, 256]]), [128, 128, 128]);
  assertEquals(chosen([[2, 4096]], [128, 32]), [32]);
});

Deno.test("matmulBytes() stays within every device for all but the smallest tile", () => {
  assertEquals(MATMUL_TILES.map(matmulBytes), [16384, 16384, 32768]);
});
