import { assertEquals, assertThrows } from "@std/assert";
import {
  codeBits,
  type CodecShape,
  fields,
  moreBits,
  moreFields,
  pairStages,
  publishedStages,
  stagesFor,
  tableRows,
} from "../../src/core/codec.ts";
import {
  getCode,
  indexWord,
  moreRoom,
  moreStarts,
  packCodes,
  putCode,
  putRanks,
  unpackCodes,
} from "../../src/core/pack.ts";
import { Rng } from "../../src/core/rng.ts";

const MIXED: CodecShape = {
  headDim: 64,
  stages: [{ kind: "pair", tied: false }, { kind: "sub", pairs: 8 }, { kind: "sub", pairs: 16 }],
};

Deno.test("stagesFor() gives the published stages of pairs, and of others those that the bits hold", () => {
  const sub = { kind: "sub", pairs: 8 } as const, stages = [...pairStages(64, 2, false).stages, sub, sub, sub];
  assertEquals(([1, 2] as const).map((bits) => stagesFor({ headDim: 64, stages }, bits)), [3, 5]);
  assertEquals(([1, 2] as const).map((bits) => stagesFor(pairStages(128, 3, false), bits)), [11, 21]);
  assertEquals(stagesFor({ headDim: 64, stages: [{ kind: "sub", pairs: 4 }, sub] }, 1), 1);
});

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

Deno.test("further codes lie by rank, as others by token", () => {
  const shape: CodecShape = { ...MIXED, base: 1 }, words = new Uint32Array(moreBits(shape));
  assertEquals([codeBits(shape), moreBits(shape)], [12, 52]);
  assertEquals(moreFields(shape).map(({ stage, word, bits }) => [stage, word, bits]), [
    ...[0, 8, 16, 24].map((word) => [1, word, 8]),
    ...[32, 40].map((word) => [2, word, 8]),
    [3, 48, 4], // the gain
  ]);
  const pairs: CodecShape = { ...pairStages(64, 3, false), base: 1 }, [, last] = moreFields(pairs);
  putCode(words, last!.word, last!.bits, 2, 0xabc); // bits 24 to 35 of the second stage's twelve words
  assertEquals([...words.subarray(12, 14)], [0xbc000000, 0xa]);
});

Deno.test("moreRoom() is whole blocks, and further codes lie behind the index, head by head", () => {
  assertEquals([[0, 0], [256, 0.25], [256, 0.2], [4096, 0], [100, 1]].map(([t, s]) => moreRoom(t!, s!)), [
    ...[0, 128, 96, 32, 128],
  ]);
  for (const shape of [{ ...MIXED, base: 1 }, { ...pairStages(64, 3, false), base: 1 }]) {
    const bits = moreBits(shape);
    assertEquals([...moreStarts(shape, [32, 0, 96], 5)], [34, 34 + bits, 34 + bits, 34 + 4 * bits]);
  }
  assertEquals([[0, 0], [0, 2], [4, 2]].map(([block, head]) => indexWord(3, block!, head!)), [4, 8, 32]);
});

Deno.test("putRanks() puts further codes behind any rank", () => {
  const rng = new Rng(6);
  for (const shape of [{ ...MIXED, base: 1 }, { ...pairStages(64, 5, false), base: 2 }]) {
    const bits = moreBits(shape), from = Uint32Array.from({ length: 3 * bits }, () => rng.u32()); // 12 bits, or 8
    for (const [rank, count] of [[0, 1], [1, 31], [31, 2], [5, 70], [32, 64], [45, 96]] as const) {
      const words = new Uint32Array(5 * bits);
      putRanks(shape, words, rank, from, count);
      for (let r = 0; r < 160; r++) {
        for (const { word, bits: width } of moreFields(shape)) {
          const own = r - rank, isPut = own >= 0 && own < count;
          const want = isPut ? getCode(from, (own >>> 5) * bits + word, width, own & 31) : 0;
          assertEquals(getCode(words, (r >>> 5) * bits + word, width, r & 31), want, `rank ${r} of ${rank} + ${count}`);
        }
      }
    }
  }
});
