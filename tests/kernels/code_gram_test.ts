import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { type CodecShape, pairStages, tableRows } from "../../src/core/codec.ts";
import { codeGramShapes } from "../../src/core/shapes.ts";

import { CodeGram } from "../../src/kernels/code_gram.ts";
import { codeGramRef } from "../../src/ref/code_gram.ts";
import { assertAsAccurateAs } from "../_assert.ts";
import { onEachReading, poisoned } from "../_gpu.ts";
import { asWords, halves } from "./_codec.ts";

const sub = (pairs: number) => ({ kind: "sub", pairs } as const);
const CODECS: readonly CodecShape[] = [
  { headDim: 8, stages: [{ kind: "pair", tied: true }] },
  { headDim: 80, stages: [{ kind: "pair", tied: false }, { kind: "sub", pairs: 8 }, { kind: "pair", tied: true }] },
  { headDim: 128, stages: [{ kind: "sub", pairs: 64 }, { kind: "sub", pairs: 4 }] },
  {
    headDim: 64, // alike stages are done at once
    stages: [...pairStages(64, 2, true).stages, ...pairStages(64, 1, false).stages, ...[8, 8, 32].map(sub)],
  },
];

Deno.test("code_gram", (t) =>
  onEachReading(t, async (gpu, t) => {
    for (const codec of CODECS) {
      for (const heads of [1, 3]) {
        await t.step(`is as accurate as f32: ${heads} heads, ${JSON.stringify(codec)}`, async () => {
          const shapes = codeGramShapes(heads, codec),
            { bits, values } = halves(heads * tableRows(codec) * codec.headDim, 0.1, 7);
          using table = gpu.upload("table", "u32", shapes.table, asWords(bits));
          using gram = poisoned(gpu, "gram", shapes.gram);
          const op = await CodeGram.create(gpu, codec), commands = gpu.commands();
          op.encode(commands, { table, gram }, heads);
          commands.submit();
          const exact = codeGramRef(values, heads, codec);
          assertAsAccurateAs(await gpu.readF32(gram), codeGramRef(values, heads, codec, Math.fround), exact);
        });
      }
    }
    await t.step("rejects a wrong shape by name", async () => {
      const op = await CodeGram.create(gpu, CODECS[0]!), x = gpu.alloc("x", "f32", [1, 128, 4]);
      assertThrows(
        () => op.encode(gpu.commands(), { table: x, gram: x }, 1),
        TypeError,
        "'gram' must have shape [1,4224]",
      );
    });
  }));

Deno.test("codeGramRef() holds lengths, then twice the inner products, b outermost", () => {
  const codec: CodecShape = { headDim: 8, stages: [{ kind: "pair", tied: false }] }, words = new Float64Array(128 * 8);
  words.set([1, 2], 8 * 5); // u_5
  words.set([3, 4], 8 * (64 + 9)); // v_9
  const gram = codeGramRef(words, 1, codec);
  assertAlmostEquals(gram[5]!, 5);
  assertAlmostEquals(gram[64 + 9]!, 25);
  assertEquals(gram[128 + 64 * 9 + 5], 22);
  assertEquals(gram.filter((x) => x !== 0).length, 3);
});
