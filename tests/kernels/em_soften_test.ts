import { assert, assertAlmostEquals, assertThrows } from "@std/assert";
import type { Stage } from "../../src/core/codec.ts";
import { BLOCK, blocks } from "../../src/core/pack.ts";
import { type EmDims, emSoftenShapes } from "../../src/core/shapes.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { EmReduce } from "../../src/kernels/em_reduce.ts";
import { EmSoften } from "../../src/kernels/em_soften.ts";
import { codeGramRef } from "../../src/ref/code_gram.ts";
import { emSoftenRef } from "../../src/ref/em_soften.ts";
import { assertAsAccurateAs } from "../_assert.ts";
import { onEachText, poisoned } from "../_gpu.ts";
import { asWords, KINDS, residuals, wordsOf } from "./_codec.ts";

const PAIR: Stage = { kind: "pair", tied: false };

async function run(
  gpu: Gpu,
  dims: EmDims,
  data: Float32Array,
  bits: Uint16Array,
  values: Float64Array,
  temperature: number,
) {
  const shapes = emSoftenShapes(dims), { headDim, heads, stage } = dims;
  const gramData = Float32Array.from(codeGramRef(values, heads, { headDim, stages: [stage] }));
  using residual = gpu.upload("residual", "f32", shapes.residual, data);
  using table = gpu.upload("table", "u32", shapes.table, asWords(bits));
  using gram = gpu.upload("gram", "f32", shapes.gram, gramData);
  using weights = poisoned(gpu, "weights", shapes.weights);
  using counts = poisoned(gpu, "counts", shapes.counts), out = poisoned(gpu, "out", [heads, 4096]);
  const op = await EmSoften.create(gpu, headDim), reduce = await EmReduce.create(gpu), commands = gpu.commands();
  op.encode(commands, { residual, table, gram, weights, counts }, dims, temperature);
  reduce.encode(commands, { parts: counts, out });
  commands.submit();
  return { weights: await gpu.readF32(weights), counts: await gpu.readF32(out) };
}

/** Weights of tokens, without those past the last. */
function real(weights: ArrayLike<number>, { heads, tokens }: EmDims): number[] {
  const all = blocks(tokens) * BLOCK * 128;
  return Array.from(
    { length: heads * tokens * 128 },
    (_, i) => weights[Math.floor(i / tokens / 128) * all + i % (tokens * 128)]!,
  );
}

Deno.test("em_soften", (t) =>
  onEachText(t, async (gpu, t) => {
    for (const [headDim, heads, tokens] of [[8, 1, 1], [64, 2, 33], [128, 1, 40]] as const) {
      // at T = 1 nearly all words weigh the same, at 1e-3 a few, at 1e-9 the nearest alone
      for (const temperature of [1, 1e-2, 1e-3]) {
        const dims: EmDims = { headDim, heads, tokens, stage: PAIR };
        await t.step(`is as accurate as f32 at T = ${temperature}, ${JSON.stringify(dims)}`, async () => {
          const data = residuals(dims, "normal", 21), { bits, values } = wordsOf(headDim, heads, PAIR, 22);
          const got = await run(gpu, dims, data, bits, values, temperature);
          const exact = emSoftenRef(data, values, dims, temperature),
            naive = emSoftenRef(data, values, dims, temperature, Math.fround);
          // a distance is right to 2^-22, a weight therefore to as much over T
          const floor = 2 ** -22 * (1 + 1 / temperature);
          assertAsAccurateAs(real(got.weights, dims), real(naive.weights, dims), real(exact.weights, dims), floor);
          assertAsAccurateAs(got.counts, naive.counts, exact.counts, floor);
        });
      }
    }
    for (const kind of KINDS) {
      await t.step(`weights of a token add up to 1, counts to the tokens: ${kind}`, async () => {
        const dims: EmDims = { headDim: 64, heads: 1, tokens: 1057, stage: PAIR };
        const data = residuals(dims, kind, 23), { bits, values } = wordsOf(64, 1, PAIR, 24, 2);
        for (const temperature of [1e-3, 1e-9]) {
          const got = await run(gpu, dims, data, bits, values, temperature);
          for (let token = 0; token < dims.tokens; token++) {
            for (let half = 0; half < 2; half++) {
              const own = got.weights.subarray(128 * token + 64 * half, 128 * token + 64 * half + 64);
              assertAlmostEquals(own.reduce((a, b) => a + b), 1, 1e-5);
              assert(own.every((w) => w >= 0));
            }
          }
          assertAlmostEquals(got.counts.reduce((a, b) => a + b), dims.tokens, 1e-3);
        }
      });
    }
    await t.step("rejects a temperature of 0 and a wrong shape", async () => {
      const op = await EmSoften.create(gpu, 64), x = gpu.alloc("x", "f32", [1, 1, 64, 32]);
      const io = { residual: x, table: x, gram: x, weights: x, counts: x };
      const dims = { headDim: 64, heads: 1, tokens: 5, stage: PAIR };
      assertThrows(() => op.encode(gpu.commands(), io, dims, 0), RangeError, "above 0: it is 0");
      assertThrows(() => op.encode(gpu.commands(), io, dims, 1), TypeError, "'table' must have shape [1,128,32]");
    });
  }));
