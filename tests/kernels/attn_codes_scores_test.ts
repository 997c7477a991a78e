import { assertEquals, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { codeScoresShape } from "../../src/core/shapes.ts";
import { AttnCodesScores, chooseAttnCodesScores } from "../../src/kernels/attn_codes_scores.ts";
import { chooseTableLayout, codeQuads } from "../../src/kernels/packed_codes.ts";
import { attnCodesScoresRef } from "../../src/ref/attn_codes_scores.ts";
import { codeDecodeRef } from "../../src/ref/code_decode.ts";
import { exact, type Round } from "../../src/ref/round.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { onEachText, poisoned } from "../_gpu.ts";
import { codec, packedSample, pairs, rope, uploadPacked } from "./_codes.ts";

Deno.test("attn_codes_scores", (t) =>
  onEachText(t, async (gpu, t) => {
    const dims = { qHeads: 7, kvHeads: 1, codec: codec(128, "p", 16) },
      { headDim } = dims.codec,
      first = 32,
      tokens = 41;
    const q = normals(new Rng(4), 7 * headDim, 0.1), sample = packedSample(dims.codec, 1, first + tokens, 9);
    const { frequencies, ropeTable } = rope(gpu, headDim, 1024), packed = uploadPacked(gpu, sample);
    using qs = gpu.upload("q", "f32", [7, headDim], q);
    for (const tokenLanes of [16, 32]) {
      await t.step(`is as accurate as f32 from a later block on, by ${tokenLanes} lanes a token`, async () => {
        const variant = { ...chooseAttnCodesScores(dims, gpu), tokenLanes };
        const op = await AttnCodesScores.create(gpu, dims, { variant });
        using scores = poisoned(gpu, "scores", codeScoresShape({ ...dims, heads: 4, capacity: 48 }));
        const commands = gpu.commands();
        op.encode(commands, { ...packed, q: qs, ropeTable, scores }, { first, tokens, base: 100 });
        commands.submit();
        const all = await gpu.readF32(scores); // [K][2][48][4]
        const got = Float64Array.from({ length: 7 * tokens }, (_, i) => {
          const h = Math.floor(i / tokens);
          return all[((h >> 2) * 48 + i % tokens) * 4 + h % 4]!;
        });
        assertEquals([...all.subarray(4 * tokens, 192)].every(Number.isNaN), true); // past the last token
        const rotation = { frequencies, position: (_: number, t: number) => 100 + t };
        const want = (round: Round) =>
          attnCodesScoresRef(q, codeDecodeRef(sample, { first, tokens, rotation }, round), { ...dims, headDim }, round);
        assertAsAccurateAs(got, want(Math.fround), want(exact));
      });
    }
    await t.step("rejects tokens that do not begin a block, are not there, or turn past the table", async () => {
      const op = await AttnCodesScores.create(gpu, dims), { heads } = op.variant;
      using scores = gpu.alloc("scores", "f32", codeScoresShape({ ...dims, heads, capacity: 48 }));
      const encode = (first: number, tokens: number, base = 0) => () =>
        op.encode(gpu.commands(), { ...packed, q: qs, ropeTable, scores }, { first, tokens, base });
      assertThrows(encode(8, 1), RangeError, "begin at a block");
      assertThrows(encode(64, 33), RangeError, "3 blocks");
      assertThrows(encode(0, 49), RangeError, "room for 48");
      assertThrows(encode(0, 25, 1000), RangeError, "position 1024");
    });
    await t.step("rejects codecs that no kernel serves", async () => {
      const create = (codec: typeof dims.codec) => AttnCodesScores.create(gpu, { ...dims, codec });
      const messages = await Promise.all(
        [codec(40, 5), codec(64)].map((c) => create(c).then(() => "", (e) => e.message)),
      );
      assertEquals(messages.map((m: string) => m.split(" as ")[0]), [
        "Cannot code groups of 5 pairs",
        "Cannot read codes",
      ]);
    });
    ropeTable[Symbol.dispose]();
    for (const tensor of Object.values(packed)) tensor[Symbol.dispose]();
  }));

Deno.test("attnCodesScoresRef() is a dot product", () => {
  const out = attnCodesScoresRef(Float32Array.of(1, 2, 3, 4), Float64Array.of(5, 6, 7, 8), {
    ...{ qHeads: 2, kvHeads: 1, headDim: 2 },
  });
  assertEquals([...out], [17, 23, 39, 53]);
});

Deno.test("codeQuads() gives each quad its field and its row", () => {
  const quads = codeQuads(codec(64, "p", 8, 16));
  assertEquals([...quads.subarray(0, 2)], [0x80000000, 0]);
  assertEquals([...quads.subarray(14, 16)], [0x80000000, 0]);
  assertEquals([...quads.subarray(16, 32)], [12, 128, 12, 128, 20, 128, 20, 128, 28, 128, 28, 128, 36, 128, 36, 128]);
  assertEquals([...quads.subarray(32)], [44, 384, 44, 384, 44, 384, 44, 384, 52, 384, 52, 384, 52, 384, 52, 384]);
});

Deno.test("chooseTableLayout() refuses a device that is too small", () => {
  const dims = { qHeads: 4, kvHeads: 1, codec: pairs(128, 11) };
  const limits = { maxComputeInvocationsPerWorkgroup: 16, maxComputeWorkgroupStorageSize: 16384 };
  assertThrows(
    () => chooseTableLayout(dims, { limits, f16: true, subgroups: true, isFallback: false }, 4, 4),
    RangeError,
    "at most 16 lanes",
  );
});
