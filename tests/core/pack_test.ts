import { assertEquals, assertThrows } from "@std/assert";
import { codeBits, type CodecShape, fields, pairStages, publishedStages, tableRows } from "../../src/core/codec.ts";
import { packCodes, unpackCodes } from "../../src/core/pack.ts";
import { Rng } from "../../src/core/rng.ts";

const MIXED: CodecShape = {
  headDim: 64,
  stages: [{ kind: "pair", tied: false }, { kind: "sub", pairs: 8 }, { kind: "sub", pairs: 16 }],
};

Deno.test("publishedStages() gives the paper's numbers", () => {
  assertEquals([64, 128].map((d) => [publishedStages(d, 1), publishedStages(d, 2)]), [[5, 10], [11, 21]]);
});

Deno.test("codeBits() counts every field", () => {
  assertEquals(codeBits(pairStages(128, 11, true)), 132);
  assertEquals(codeBits(MIXED), 12 + 4 * 8 + 2 * 8);
  assertEquals(tableRows(MIXED), 128 + 2 * 256);
  assertEquals(fields(MIXED).map((f) => [f.word, f.row, f.pair, f.pairs]), [
    [0, 0, 0, 32],
    [12, 128, 0, 8],
    [20, 128, 8, 8],
    [28, 128, 16, 8],
    [36, 128, 24, 8],
    [44, 384, 0, 16],
    [52, 384, 16, 16],
  ]);
  assertThrows(
    () => fields({ headDim: 80, stages: [{ kind: "sub", pairs: 16 }] }),
    RangeError,
    "40 pairs into groups of 16",
  );
});

Deno.test("packCodes() round-trips every pattern of every field", () => {
  for (const shape of [MIXED, pairStages(64, 5, true), pairStages(128, 21, true)]) {
    const list = fields(shape), kvHeads = 3, tokens = 4096 + 37;
    const codes = new Uint16Array(tokens * kvHeads * list.length);
    const rng = new Rng(5);
    for (let i = 0; i < codes.length; i++) {
      const { bits } = list[i % list.length]!, t = Math.floor(i / (kvHeads * list.length));
      codes[i] = t < 4096 ? (t * 2654435761 >>> 0) % 2 ** bits ^ (t & (2 ** bits - 1)) : rng.below(2 ** bits);
    }
    for (let t = 0; t < 4096; t++) codes[t * kvHeads * list.length] = t % 2 ** list[0]!.bits; // every pattern
    const words = packCodes(shape, kvHeads, codes);
    assertEquals(words.length, Math.ceil(tokens / 32) * kvHeads * codeBits(shape));
    assertEquals(unpackCodes(shape, kvHeads, words, tokens), codes);
  }
});
