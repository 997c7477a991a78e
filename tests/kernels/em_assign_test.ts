import { assert, assertEquals, assertThrows } from "@std/assert";
import type { Stage } from "../../src/core/codec.ts";
import { BLOCK, blocks } from "../../src/core/pack.ts";
import { emAssignShapes, type EmDims, stageSizes } from "../../src/core/shapes.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { EmAssign } from "../../src/kernels/em_assign.ts";
import { codeGramRef } from "../../src/ref/code_gram.ts";
import { residualAt } from "../../src/ref/code_residual.ts";
import { distanceRef, emAssignRef } from "../../src/ref/em_assign.ts";
import { assertAsAccurateAs } from "../_assert.ts";
import { poisoned } from "../_gpu.ts";
import { asWords, KINDS, residuals, wordsOf } from "./_codec.ts";

const PAIR: Stage = { kind: "pair", tied: false }, SUB8: Stage = { kind: "sub", pairs: 8 };

async function run(gpu: Gpu, dims: EmDims, data: Float32Array, bits: Uint16Array, values: Float64Array, keep = false) {
  const shapes = emAssignShapes(dims), { headDim, heads, stage } = dims;
  const gramData = Float32Array.from(codeGramRef(values, heads, { headDim, stages: [stage] }));
  using residual = gpu.upload("residual", "f32", shapes.residual, data);
  using table = gpu.upload("table", "u32", shapes.table, asWords(bits));
  using gram = gpu.upload("gram", "f32", shapes.gram, gramData);
  using codes = gpu.alloc("codes", "u32", shapes.codes), distances = poisoned(gpu, "distances", shapes.distances);
  const op = await EmAssign.create(gpu, headDim, stage), commands = gpu.commands();
  op.encode(commands, { residual, table, gram, codes, distances }, dims, keep);
  commands.submit();
  return {
    codes: await gpu.readU32(codes),
    distances: await gpu.readF32(distances),
    residual: await gpu.readF32(residual),
  };
}

/** Every token and group of a head, with the index of its code. */
function* places({ headDim, heads, tokens, stage }: EmDims) {
  const { groups } = stageSizes(headDim, stage), all = blocks(tokens) * BLOCK;
  for (let head = 0; head < heads; head++) {
    for (let group = 0; group < groups; group++) {
      for (let token = 0; token < tokens; token++) {
        yield { head, group, token, at: (head * groups + group) * all + token };
      }
    }
  }
}

Deno.test("em_assign", async (t) => {
  using gpu = await Gpu.create(); // its text has no subgroups
  const cases = [
    [8, 1, 1, PAIR],
    [64, 2, 33, PAIR],
    [96, 1, 32, { kind: "sub", pairs: 16 }],
    [80, 2, 31, SUB8],
    [128, 1, 35, PAIR],
    [256, 1, 5, PAIR],
  ] as const;
  for (const [headDim, heads, tokens, stage] of cases) {
    for (const kind of KINDS) {
      const dims: EmDims = { headDim, heads, tokens, stage };
      await t.step(`finds the words of a search over all: ${kind}, ${JSON.stringify(dims)}`, async () => {
        const data = residuals(dims, kind, 3), { bits, values } = wordsOf(headDim, heads, stage, 4, 2);
        const got = await run(gpu, dims, data, bits, values), want = emAssignRef(data, values, dims);
        const all = blocks(tokens) * BLOCK,
          naive = new Float64Array(heads * all),
          chosen = new Float64Array(heads * all);
        let same = 0, count = 0;
        for (const { head, group, token, at } of places(dims)) {
          const code = got.codes[at]!, place = { head, token, group, code };
          const distance = distanceRef(data, values, dims, place);
          const least = distanceRef(data, values, dims, { ...place, code: want.codes[at]! });
          assert(distance <= least + 2 ** -20 * (1 + least), `token ${token}: ${distance} for ${least}`);
          same += Number(code === want.codes[at]);
          count++;
          chosen[head * all + token]! += distance;
          naive[head * all + token]! += distanceRef(data, values, dims, place, Math.fround);
        }
        if (kind === "normal") assert(same >= 0.99 * count, `${same} of ${count} codes are the reference's`);
        assertAsAccurateAs(got.distances, naive, chosen);
        const padding = got.codes.filter((_, i) => i % all >= tokens);
        assert(padding.every((code) => code === 0xffffffff), "codes past the last token");
        assertEquals(got.residual, data);
      });
    }
  }
  await t.step("takes the words off with keep", async () => {
    for (const stage of [PAIR, SUB8]) {
      const dims = { headDim: 64, heads: 2, tokens: 40, stage };
      const data = residuals(dims, "normal", 5), { bits, values } = wordsOf(64, 2, stage, 6);
      const got = await run(gpu, dims, data, bits, values, true), rows = stage === PAIR ? 128 : 256;
      for (const { head, group, token, at } of places(dims)) {
        const code = got.codes[at]!, picked = stage === PAIR ? [code >> 6, 64 + (code & 63)] : [code];
        for (let c = group * (stage === PAIR ? 64 : 16); c < (group + 1) * (stage === PAIR ? 64 : 16); c++) {
          const i = residualAt(64, 40, head, token, c);
          const want = picked.reduce((x, w) => x - values[(head * rows + w) * 64 + c]!, data[i]!);
          assert(Math.abs(got.residual[i]! - want) < 2e-7, `component ${c} of token ${token}`);
        }
      }
    }
  });
  await t.step("rejects what it does not serve, by name", async () => {
    const op = await EmAssign.create(gpu, 64, PAIR), x = gpu.alloc("x", "f32", [1, 1, 64, 32]);
    const io = { residual: x, table: x, gram: x, codes: x, distances: x };
    const dims = { headDim: 64, heads: 1, tokens: 32, stage: PAIR };
    assertThrows(() => op.encode(gpu.commands(), io, dims), TypeError, "'table' must have shape [1,128,32]");
  });
});

Deno.test("EmAssign.create() refuses heads and groups that kernels do not serve", async () => {
  const { stageConstants } = await import("../../src/kernels/stage.ts");
  assertThrows(() => stageConstants(60, PAIR), RangeError, "multiple of 8: it is 60");
  assertThrows(() => stageConstants(64, { kind: "sub", pairs: 6 }), RangeError, "groups of 6 pairs");
  assertThrows(() => stageConstants(64, { kind: "sub", pairs: 64 }), RangeError, "cut 32");
});
