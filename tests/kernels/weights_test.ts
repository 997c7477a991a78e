import { assertEquals, assertThrows } from "@std/assert";
import { GpuMemoryError } from "../../src/core/errors.ts";
import { Rng } from "../../src/core/rng.ts";
import { repackRows, weightBytes } from "../../src/core/weight_layout.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { Texels } from "../../src/gpu/texels.ts";
import { WeightMatrix } from "../../src/kernels/weights.ts";
import { readTexels } from "../_gpu.ts";
import { randomWeights, TYPES } from "./_weights.ts";

/** Bytes of all slices' data, and of all slices' scales, in order. */
async function contents(gpu: Gpu, matrix: WeightMatrix): Promise<[number[], number[]]> {
  const data: number[] = [], scales: number[] = [];
  for (const slice of matrix.slices) {
    const held = weightBytes(matrix.type, slice.rows, matrix.cols);
    for (const [into, store, bytes] of [[data, slice.data, held.data], [scales, slice.scales, held.scales]] as const) {
      const all = store instanceof Texels ? await readTexels(gpu, store) : new Uint8Array(await gpu.read(store));
      into.push(...all.subarray(0, bytes));
    }
  }
  return [data, scales];
}

Deno.test("WeightMatrix", async (t) => {
  using gpu = await Gpu.create();
  for (const type of TYPES) {
    const cols = type.endsWith("K") ? 256 : 96, sample = randomWeights(type, 150, cols, 1);
    const want = weightBytes(type, 150, cols),
      data = new Uint8Array(want.data),
      scales = new Uint16Array(want.scales / 2);
    repackRows(type, cols, sample.file, data, scales);
    // An odd number of scales a row: pieces share words.
    for (
      const [maxBytes, texels] of [[undefined, false], [70 * data.length / 150, false], [undefined, true]] as const
    ) {
      const into = maxBytes ? ", into slices" : texels ? ", into texels" : "";
      await t.step(`takes ${type} in pieces, in any order${into}`, async () => {
        using matrix = WeightMatrix.alloc(gpu, "w", sample, { maxBytes, texels });
        assertEquals(
          matrix.slices.map(({ row, rows }) => [row, rows]),
          maxBytes ? [[0, 64], [64, 64], [128, 22]] : [[0, 150]],
        );
        const rowBytes = sample.file.length / 150, cuts = [0, 1, 2, 5, 40, 63, 90, 149, 150];
        const pieces = cuts.slice(1).map((end, i) => [cuts[i]!, end] as const), rng = new Rng(4);
        for (const [from, end] of pieces.toSorted(() => rng.uniform() - 0.5)) {
          matrix.write(from, sample.file.subarray(from * rowBytes, end * rowBytes));
        }
        const [gotData, gotScales] = await contents(gpu, matrix);
        assertEquals(gotData, [...data]);
        assertEquals(gotScales, [...new Uint8Array(scales.buffer)]);
        if (!texels) assertEquals(matrix.bytes, data.length + 2 * scales.length);
      });
    }
  }
  await t.step("keeps partners of a paired matrix in one slice", async () => {
    const rows = 200, file = new Uint8Array(rows * 64).map((_, i) => Math.floor(i / 64));
    using matrix = WeightMatrix.alloc(gpu, "w", { type: "F32", rows, cols: 16 }, {
      paired: true,
      maxBytes: 2 * 64 * 64,
    });
    matrix.write(0, file);
    const [data] = await contents(gpu, matrix), firsts = data.filter((_, i) => i % 64 === 0);
    const span = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);
    assertEquals(firsts, [...span(0, 64), ...span(100, 164), ...span(64, 100), ...span(164, 200)]);
  });
  await t.step("frees what it holds", () => {
    const before = gpu.bytes;
    for (const texels of [false, true]) {
      const matrix = WeightMatrix.alloc(gpu, "w", { type: "Q8_0", rows: 64, cols: 64 }, { texels });
      assertEquals(gpu.bytes - before, matrix.bytes);
      matrix[Symbol.dispose]();
      assertEquals(gpu.bytes, before);
    }
  });
  await t.step("refuses parts of rows, rows outside, odd pairs, and rows that no binding holds", () => {
    using matrix = WeightMatrix.alloc(gpu, "w", { type: "F16", rows: 4, cols: 16 });
    assertThrows(() => matrix.write(0, new Uint8Array(33)), RangeError, "33 bytes at row 0");
    assertThrows(() => matrix.write(3, new Uint8Array(64)), RangeError, "64 bytes at row 3");
    const dims = { type: "F16", rows: 129, cols: 16 } as const;
    assertThrows(() => WeightMatrix.alloc(gpu, "w", dims, { paired: true }), RangeError, "129 rows");
    assertThrows(() => WeightMatrix.alloc(gpu, "w", dims, { maxBytes: 2000 }), GpuMemoryError, "64 of its rows");
  });
});
