import { assert, assertEquals, assertThrows } from "@std/assert";
import { baseOf, type CodecShape, fields } from "../../src/core/codec.ts";
import { fromF16Array, toF16Array } from "../../src/core/f16.ts";
import { BLOCK, blocks, moreSize, roomOf } from "../../src/core/pack.ts";
import { Rng } from "../../src/core/rng.ts";
import { codeTierShapes } from "../../src/core/shapes.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { encodeFields } from "../../src/kernels/code_encode.ts";
import { CodeTier } from "../../src/kernels/code_tier.ts";
import { codeTierRef, furtherCodes, tokenErrorsRef } from "../../src/ref/code_tier.ts";
import { normals } from "../_assert.ts";
import { codec, pairs, tiered } from "./_codes.ts";

const CASES = [
  { codec: tiered(pairs(64, 12), 5), heads: 2, tokens: 600, share: 0.3, roomFor: 0.5 },
  { codec: tiered(codec(80, "p", 20, 8), 1), heads: 3, tokens: 70, share: 0.3, roomFor: 0.15 }, // not room for all
  { codec: tiered(pairs(8, 2), 1), heads: 1, tokens: 1, share: 1, roomFor: 1 },
  { codec: tiered(pairs(64, 8), 2), heads: 2, tokens: 256, share: 1, roomFor: 1 },
];

/** Thresholds that about a share of each head's errors pass, none of them near. */
function limitsOf(errors: Float64Array, heads: number, share: number): Float32Array {
  const tokens = errors.length / heads;
  return Float32Array.from({ length: heads }, (_, h) => {
    const own = errors.slice(h * tokens, (h + 1) * tokens).sort(), at = Math.round((1 - share) * tokens);
    return at === 0 ? 0 : (own[at]! + own[at - 1]!) / 2;
  });
}

Deno.test("code_tier", async (t) => {
  using gpu = await Gpu.create();
  for (const { codec, heads, tokens, share, roomFor } of CASES) {
    const name = `${heads} heads of ${codec.headDim}, ${tokens} tokens, room for ${roomFor}`;
    await t.step(`gives further codes in order while there is room: ${name}`, async () => {
      const { headDim } = codec, capacity = blocks(tokens) * BLOCK, codeBlocks = blocks(tokens) + 2, rng = new Rng(3);
      const room = Math.ceil(roomFor * tokens), size = moreSize(codec, heads, codeBlocks, room);
      const dims = { codec, heads, capacity, scales: codeBlocks * BLOCK, more: size }, shapes = codeTierShapes(dims);
      assertEquals(roomOf(codec, heads, codeBlocks, size), room);
      const data = normals(rng, heads * capacity * headDim);
      const halves = toF16Array(normals(rng, codeBlocks * BLOCK).map(Math.abs));
      const errors = tokenErrorsRef(data, fromF16Array(halves), { heads, headDim, tokens }, capacity);
      const limits = limitsOf(errors, heads, share), list = fields(codec), few = fields(baseOf(codec)).length;
      const codes = (count: number) =>
        Uint32Array.from({ length: heads * capacity * count }, (_, i) => rng.below(2 ** list[i % count]!.bits));
      const all = codes(list.length), raw = codes(few);
      using residual = gpu.upload("residual", "f32", shapes.residual, data);
      using scales = gpu.upload("scales", "f16", shapes.scales, halves);
      using thresholds = gpu.upload("thresholds", "f32", shapes.thresholds, limits);
      using fieldList = gpu.upload("fields", "u32", shapes.fields, encodeFields(codec));
      using allCodes = gpu.upload("all", "u32", shapes.all, all), rawCodes = gpu.upload("raw", "u32", shapes.raw, raw);
      using more = gpu.upload("more", "u32", shapes.more, new Uint32Array(size));
      const op = await CodeTier.create(gpu, codec), commands = gpu.commands();
      const io = { residual, scales, thresholds, fields: fieldList, all: allCodes, raw: rawCodes, more };
      op.encode(commands, io, { tokens, block: 0, codeBlocks, held: BLOCK });
      commands.submit();
      const missed = Array.from(errors, (error, i) => error > limits[Math.floor(i / tokens)]!);
      const byToken = (codes: Uint32Array, count: number) =>
        Uint32Array.from({ length: heads * tokens * count }, (_, i) => {
          const k = Math.floor(i / tokens / count);
          return codes[k * capacity * count + i % (tokens * count)]!;
        });
      const want = codeTierRef(codec, heads, missed, byToken(all, list.length), { codeBlocks, room });
      assertEquals(await gpu.readU32(more), want.more);
      assert(missed.includes(true) && want.held.includes(true));
      const got = byToken(await gpu.readU32(rawCodes), few), drawn = byToken(all, list.length);
      const before = byToken(raw, few);
      assertEquals(
        got,
        got.map((_, i) => {
          const token = Math.floor(i / few);
          return want.held[token] ? drawn[token * list.length + i % few]! : before[i]!;
        }),
      );
      // What a token has further is found again, and a second call goes on behind the tokens that count.
      const at = want.held.lastIndexOf(true), k = Math.floor(at / tokens);
      assertEquals(
        furtherCodes(codec, heads, want.more, { codeBlocks, room }, k, at % tokens),
        [...drawn.subarray(at * list.length + few, (at + 1) * list.length)],
      );
    });
  }
  await t.step("goes on after the tokens that count", async () => {
    const codec = tiered(pairs(8, 2), 1), codeBlocks = 3, room = 96, size = moreSize(codec, 1, codeBlocks, room);
    const dims = { codec, heads: 1, capacity: BLOCK, scales: 96, more: size }, shapes = codeTierShapes(dims);
    const first = new Uint32Array(size);
    first.set([0b1011, 5, 0b110001, 7]); // of block 1, tokens 0 and 4 count if five are held
    using residual = gpu.upload("residual", "f32", shapes.residual, new Float32Array(BLOCK * 8).fill(1));
    using scales = gpu.upload("scales", "f16", shapes.scales, toF16Array(new Float32Array(96).fill(1)));
    using thresholds = gpu.upload("thresholds", "f32", [1], Float32Array.of(7.9));
    using fieldList = gpu.upload("fields", "u32", shapes.fields, encodeFields(codec));
    using all = gpu.alloc("all", "u32", shapes.all), raw = gpu.alloc("raw", "u32", shapes.raw);
    using more = gpu.upload("more", "u32", [size], first);
    const op = await CodeTier.create(gpu, codec), commands = gpu.commands();
    const io = { residual, scales, thresholds, fields: fieldList, all, raw, more };
    op.encode(commands, io, { tokens: 3, block: 2, codeBlocks, held: 5 });
    commands.submit();
    assertEquals([...(await gpu.readU32(more)).subarray(0, 6)], [0b1011, 5, 0b110001, 7, 0b111, 9]);
    assertThrows(
      () => op.encode(gpu.commands(), io, { tokens: 33, block: 0, codeBlocks, held: 0 }),
      RangeError,
      "33 tokens from block 0",
    );
    const { base: _, ...plain } = codec as CodecShape;
    assertEquals(roomOf(plain, 1, codeBlocks, 6), 0);
  });
});
