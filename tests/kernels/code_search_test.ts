import { assert, assertEquals, assertThrows } from "@std/assert";
import { metricRoots, metricWords } from "../../src/codebook/metric.ts";
import { type CodecShape, pairStages, tableRows } from "../../src/core/codec.ts";
import { fromF16Array, toF16, toF16Array } from "../../src/core/f16.ts";
import { Rng } from "../../src/core/rng.ts";
import { codeSearchShapes } from "../../src/core/shapes.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { CodeSearch } from "../../src/kernels/code_search.ts";
import { codeSearchRef } from "../../src/ref/code_search.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { onEachReading } from "../_gpu.ts";
import { asWords, halves } from "./_codec.ts";

async function run(gpu: Gpu, codec: CodecShape, heads: number, words: Uint16Array, metric: Uint16Array) {
  const shapes = codeSearchShapes(heads, codec), op = await CodeSearch.create(gpu, codec);
  using table = gpu.upload("table", "u32", shapes.table, asWords(words));
  using matrix = gpu.upload("metric", "u32", shapes.metric, asWords(metric));
  using search = gpu.upload("search", "u32", shapes.search, new Uint32Array(words.length / 2).fill(0x7e007e00));
  const commands = gpu.commands();
  op.encode(commands, { table, metric: matrix, search }, heads);
  commands.submit();
  return new Uint16Array(await gpu.read(search));
}

/** Roots of the metrics of a few heavy directions each. */
function roots(heads: number, headDim: number): Uint16Array {
  const rng = new Rng(5), metrics = new Float64Array(heads * headDim ** 2);
  for (let head = 0; head < heads; head++) {
    for (let n = 0; n < 5; n++) {
      const x = normals(rng, headDim), at = head * headDim ** 2;
      for (let i = 0; i < headDim; i++) {
        for (let j = 0; j < headDim; j++) metrics[at + i * headDim + j]! += x[i]! * x[j]!;
      }
    }
  }
  return metricRoots(metrics, headDim);
}

Deno.test("code_search", (t) =>
  onEachReading(t, async (gpu, t) => {
    for (const [heads, headDim, stages] of [[1, 8, 1], [3, 64, 2], [2, 80, 1], [2, 128, 2], [1, 256, 1]] as const) {
      await t.step(
        `is as accurate as f32, in half precision: ${heads} heads of ${headDim}, ${stages} stages`,
        async () => {
          const codec = pairStages(headDim, stages, false),
            { bits, values } = halves(heads * tableRows(codec) * headDim, 0.1, 7);
          const { bits: matrix, values: numbers } = halves(heads * headDim ** 2, 0.3, 8); // not symmetric
          const got = await run(gpu, codec, heads, bits, matrix);
          const naive = codeSearchRef(values, numbers, heads, headDim, Math.fround);
          assertAsAccurateAs(
            fromF16Array(got),
            fromF16Array(toF16Array(naive)),
            codeSearchRef(values, numbers, heads, headDim),
          );
        },
      );
    }
    await t.step("agrees with the words that training compares with but for ties of rounding", async () => {
      const codec = pairStages(64, 3, false),
        { bits } = halves(2 * tableRows(codec) * 64, 0.08, 9),
        metric = roots(2, 64);
      const got = await run(gpu, codec, 2, bits, metric), want = metricWords(bits, metric, 64);
      const [a, b] = [fromF16Array(got), fromF16Array(want)], { length } = want;
      // A sum in f32 is off by its largest terms' last digit, so the other neighbour may be the nearest one.
      const off = b.map((x, i) => Math.abs(x - a[i]!) / Math.max(2 ** -10 * Math.abs(x), 2 ** -20));
      assert(off.every((x) => x <= 1), `${Math.max(...off)} steps`);
      const differ = off.filter((x) => x > 0).length;
      assert(differ < 2e-3 * length, `${differ} of ${length} differ`);
    });
    await t.step("keeps what half precision cannot hold at its largest", async () => {
      const words = new Uint16Array(128 * 8), metric = new Uint16Array(64);
      words.set([toF16(60000), toF16(-60000)].flatMap((x) => [x, 0, 0, 0, 0, 0, 0, 0]));
      metric[0] = toF16(1), metric[1] = toF16(2);
      const got = fromF16Array(await run(gpu, pairStages(8, 1, false), 1, words, metric));
      assertEquals([got[0], got[1], got[8], got[9]], [60000, 65504, -60000, -65504]);
    });
    await t.step("rejects a wrong shape by name", async () => {
      const op = await CodeSearch.create(gpu, pairStages(8, 1, false)), x = gpu.alloc("x", "u32", [1, 128, 4]);
      assertThrows(
        () => op.encode(gpu.commands(), { table: x, metric: x, search: x }, 1),
        TypeError,
        "'metric' must have shape [1,8,4]",
      );
    });
  }));
