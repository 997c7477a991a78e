import { assert, assertEquals, assertThrows } from "@std/assert";
import type { Stage } from "../../src/core/codec.ts";
import { fromF16Array, toF16Array } from "../../src/core/f16.ts";
import { BLOCK, blocks } from "../../src/core/pack.ts";
import { Rng } from "../../src/core/rng.ts";
import { emAccumulateShapes, type EmDims, stageSizes } from "../../src/core/shapes.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { EmAccumulate } from "../../src/kernels/em_accumulate.ts";
import { EmReduce } from "../../src/kernels/em_reduce.ts";
import { emAccumulateRef } from "../../src/ref/em_accumulate.ts";
import { assertAsAccurateAs } from "../_assert.ts";
import { onEachText, poisoned } from "../_gpu.ts";
import { residuals } from "./_codec.ts";

const PAIR: Stage = { kind: "pair", tied: true };

/** Assignments of every token: mostly one word, so that sums are long, and padding that must not be read. */
function sample(dims: EmDims, isSoft: boolean, seed: number) {
  const { headDim, heads, tokens, stage } = dims, rng = new Rng(seed), all = blocks(tokens) * BLOCK;
  const { groups } = stageSizes(headDim, stage), most = stage.kind === "pair" ? 4096 : 256;
  const residual = residuals(dims, "normal", seed);
  if (!isSoft) residual.forEach((x, i) => residual[i] = Number.isNaN(x) ? 1e30 : x); // NONE must keep it out
  const codes = Uint32Array.from(
    { length: heads * groups * all },
    (_, i) => i % all >= tokens ? 0xffffffff : rng.below(2) ? 77 : rng.below(most),
  );
  const weights = Float32Array.from(
    { length: heads * all * 128 },
    (_, i) => Math.floor(i / 128) % all >= tokens ? NaN : rng.below(3) ? 0 : rng.uniform(),
  );
  const distances = Float32Array.from({ length: heads * all }, (_, i) => i % all >= tokens ? NaN : rng.uniform());
  const scales = toF16Array(Float32Array.from({ length: all }, () => 5 + rng.uniform()));
  return { residual, codes, weights, distances, scales };
}

async function run(gpu: Gpu, dims: EmDims, isSoft: boolean, s: ReturnType<typeof sample>) {
  const shapes = emAccumulateShapes(dims), { headDim, stage } = dims;
  using residual = gpu.upload("residual", "f32", shapes.residual, s.residual);
  using codes = gpu.upload("codes", "u32", shapes.codes, s.codes);
  using weights = isSoft ? gpu.upload("weights", "f32", shapes.weights, s.weights) : codes.view(0, codes.shape);
  using distances = gpu.upload("distances", "f32", shapes.distances, s.distances);
  using scales = gpu.upload("scales", "f16", shapes.scales, s.scales);
  using sums = poisoned(gpu, "sums", shapes.sums), out = poisoned(gpu, "out", [dims.heads, shapes.sums[2]!]);
  const op = await EmAccumulate.create(gpu, headDim, stage, isSoft), reduce = await EmReduce.create(gpu);
  const commands = gpu.commands();
  op.encode(commands, { residual, codes, weights, distances, scales, sums }, dims);
  reduce.encode(commands, { parts: sums, out });
  commands.submit();
  return await gpu.readF32(out);
}

Deno.test("em_accumulate", (t) =>
  onEachText(t, async (gpu, t) => {
    const cases = [
      [8, 1, 1, PAIR],
      [64, 3, 1026, PAIR],
      [80, 1, 2049, { kind: "sub", pairs: 8 }],
      [128, 2, 100, { kind: "sub", pairs: 64 }],
      [256, 1, 31, { kind: "sub", pairs: 8 }],
    ] as const;
    for (const [headDim, heads, tokens, stage] of cases) {
      for (const isSoft of stage.kind === "pair" ? [false, true] : [false]) {
        const dims: EmDims = { headDim, heads, tokens, stage };
        await t.step(`is as accurate as f32: ${isSoft ? "soft" : "hard"}, ${JSON.stringify(dims)}`, async () => {
          const s = sample(dims, isSoft, 11), { cells, sums: width } = stageSizes(headDim, stage);
          const from = {
            ...s,
            scales: fromF16Array(s.scales),
            ...isSoft ? { codes: undefined } : { weights: undefined },
          };
          const exact = emAccumulateRef(from, dims), naive = emAccumulateRef(from, dims, Math.fround);
          const got = await run(gpu, dims, isSoft, s);
          const part = (from: number, to: number) => (x: ArrayLike<number>) =>
            Array.from({ length: heads * (to - from) }, (_, i) =>
              x[Math.floor(i / (to - from)) * width + from + i % (to - from)]!);
          for (const pick of [part(0, width - cells - 4), part(width - 4, width)]) {
            assertAsAccurateAs(pick(got), pick(naive), pick(exact));
          }
          if (!isSoft) {
            const counts = part(width - cells - 4, width - 4);
            assertEquals(counts(got), counts(exact));
          }
        });
      }
    }
    await t.step("gives the same sums every time", async () => {
      const dims: EmDims = { headDim: 64, heads: 2, tokens: 3000, stage: PAIR }, s = sample(dims, true, 12);
      assertEquals(await run(gpu, dims, false, s), await run(gpu, dims, false, s));
    });
    await t.step("rejects a wrong shape by name", async () => {
      const op = await EmAccumulate.create(gpu, 64, PAIR), x = gpu.alloc("x", "f32", [1, 1, 64, 32]);
      const io = { residual: x, codes: x, weights: x, distances: x, scales: x, sums: x };
      const dims = { headDim: 64, heads: 1, tokens: 5, stage: PAIR };
      assertThrows(
        () =>
          op.encode(gpu.commands(), io, dims),
        TypeError,
        "'distances' must have shape [1,1,32]",
      );
    });
  }));

Deno.test("emAccumulateRef() adds a token to the words that its code names", () => {
  const dims: EmDims = { headDim: 8, heads: 1, tokens: 1, stage: PAIR }, residual = new Float64Array(8 * 32);
  for (let c = 0; c < 8; c++) residual[c * 32] = c + 1;
  const sums = emAccumulateRef({ residual, codes: Uint32Array.of(64 * 3 + 5), distances: [2], scales: [3] }, dims);
  assertEquals([...sums.subarray(3 * 8, 4 * 8)], [1, 2, 3, 4, 5, 6, 7, 8]);
  assertEquals([...sums.subarray(69 * 8, 70 * 8)], [1, 2, 3, 4, 5, 6, 7, 8]);
  assertEquals(sums[128 * 8 + 64 * 3 + 5], 1);
  assertEquals([...sums.subarray(-4)], [2, 18, 0, 0]);
  assert(sums.reduce((a, b) => a + b) === 36 * 2 + 1 + 20);
});
