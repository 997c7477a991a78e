import { assert, assertEquals, assertThrows } from "@std/assert";
import { baseOf, fields, GAIN_BITS, moreBits, rawCount } from "../../src/core/codec.ts";
import { fromF16Array, toF16Array } from "../../src/core/f16.ts";
import { BLOCK, blocks, indexWord, moreStarts } from "../../src/core/pack.ts";
import { Rng } from "../../src/core/rng.ts";
import { codeTierShapes } from "../../src/core/shapes.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { encodeFields } from "../../src/kernels/code_encode.ts";
import { CodeTier } from "../../src/kernels/code_tier.ts";
import { codeTierRef, furtherCodes, rankBlock, tokenErrorsRef } from "../../src/ref/code_tier.ts";
import { normals } from "../_assert.ts";
import { codec, pairs, tiered } from "./_codes.ts";

const CASES = [
  { codec: tiered(pairs(64, 12), 5), heads: 2, tokens: 600, share: 0.3, room: 320 },
  { codec: tiered(codec(80, "p", 20, 8), 1), heads: 3, tokens: 300, share: 0.3, room: 64 }, // not room for all
  { codec: tiered(codec(64, 16, "p", 32, "p"), 1), heads: 2, tokens: 700, share: 0.2, room: 160 },
  { codec: tiered(pairs(8, 2), 1), heads: 1, tokens: 1, share: 1, room: 32 },
  { codec: tiered(pairs(64, 8), 2), heads: 2, tokens: 256, share: 1, room: 256 },
];

/** Heads' rooms, of which every second is a block larger. */
function roomsOf(heads: number, room: number): number[] {
  return Array.from({ length: heads }, (_, k) => room + k % 2 * BLOCK);
}

/** Thresholds that about a share of each head's errors pass, none of them near. */
function limitsOf(errors: Float64Array, heads: number, share: number): Float32Array {
  const tokens = errors.length / heads;
  return Float32Array.from({ length: heads }, (_, h) => {
    const own = errors.slice(h * tokens, (h + 1) * tokens).sort(), at = Math.round((1 - share) * tokens);
    return at === 0 ? 0 : (own[at]! + own[at - 1]!) / 2;
  });
}

/** A case on the GPU, whose codes fill `more` with noise before there are any, and what comes of it. */
function sampleOf(gpu: Gpu, { codec, heads, tokens, share, room }: (typeof CASES)[number]) {
  const { headDim } = codec, capacity = blocks(tokens) * BLOCK, codeBlocks = blocks(tokens) + 2, rng = new Rng(3);
  const starts = moreStarts(codec, roomsOf(heads, room), codeBlocks),
    size = starts[heads]!,
    list = fields(codec),
    few = fields(baseOf(codec)).length;
  const shapes = codeTierShapes({ codec, heads, capacity, scales: codeBlocks * BLOCK, more: size });
  const data = normals(rng, heads * capacity * headDim), noise = Uint32Array.from({ length: size }, () => rng.u32());
  noise.set(starts);
  const halves = toF16Array(normals(rng, codeBlocks * BLOCK).map(Math.abs));
  const errors = tokenErrorsRef(data, fromF16Array(halves), { heads, headDim, tokens }, capacity);
  const limits = limitsOf(errors, heads, share);
  const codes = (count: number) =>
    Uint32Array.from(
      { length: heads * capacity * count },
      (_, i) => rng.below(2 ** (list[i % count]?.bits ?? GAIN_BITS)),
    );
  const count = rawCount(codec), all = codes(count), raw = codes(few), owned = new DisposableStack();
  const upload = (
    name: keyof typeof shapes,
    data: Parameters<Gpu["upload"]>[3],
    dtype: "u32" | "f32" | "f16" = "u32",
  ) => owned.use(gpu.upload(name, dtype, shapes[name], data));
  const io = {
    residual: upload("residual", data, "f32"),
    scales: upload("scales", halves, "f16"),
    thresholds: upload("thresholds", limits, "f32"),
    fields: upload("fields", encodeFields(codec)),
    all: upload("all", all),
    raw: upload("raw", raw),
    more: upload("more", noise),
  };
  /** Codes `[K][tokens][fields]`. */
  const byToken = (codes: Uint32Array, count: number) =>
    Uint32Array.from({ length: heads * tokens * count }, (_, i) => {
      const k = Math.floor(i / tokens / count);
      return codes[k * capacity * count + i % (tokens * count)]!;
    });
  const missed = Array.from(errors, (error, i) => error > limits[Math.floor(i / tokens)]!);
  return { io, owned, codeBlocks, noise, missed, all: byToken(all, count), raw: byToken(raw, few), byToken };
}

Deno.test("code_tier", async (t) => {
  using gpu = await Gpu.create();
  for (const it of CASES) {
    const { codec, heads, tokens, room } = it, count = rawCount(codec), few = fields(baseOf(codec)).length;
    const name = `${heads} heads of ${codec.headDim}, ${tokens} tokens, room for ${room}`;
    await t.step(`gives further codes in order while there is room: ${name}`, async () => {
      const { io, owned, codeBlocks, noise, missed, all, raw, byToken } = sampleOf(gpu, it);
      using _ = owned;
      const op = await CodeTier.create(gpu, codec), commands = gpu.commands();
      op.encode(commands, io, { tokens, block: 0, codeBlocks, held: BLOCK });
      commands.submit();
      const { more, held } = codeTierRef(codec, heads, missed, all, { codeBlocks, rooms: roomsOf(heads, room) });
      assert(missed.includes(true) && held.includes(true));
      assertEquals(missed.filter(Boolean).length > held.filter(Boolean).length, room === 64);
      // What is not written stays; ranks past the last, in its block, hold nothing.
      const want = noise.slice();
      want.set(more.subarray(0, indexWord(heads, blocks(tokens), 0)));
      for (let k = 0; k < heads; k++) {
        const ranks = held.slice(k * tokens, (k + 1) * tokens).filter(Boolean).length;
        const at = rankBlock(codec, more, k, 0);
        want.set(more.subarray(at, at + blocks(ranks) * moreBits(codec)), at);
      }
      assertEquals(await gpu.readU32(io.more), want);
      assertEquals(
        byToken(await gpu.readU32(io.raw), few),
        raw.map((code, i) => {
          const token = Math.floor(i / few);
          return held[token] ? all[token * count + i % few]! : code;
        }),
      );
      const at = held.lastIndexOf(true), k = Math.floor(at / tokens); // what a token has further is found again
      assertEquals(
        furtherCodes(codec, heads, want, k, at % tokens),
        [...all.subarray(at * count + few, (at + 1) * count)],
      );
    });
  }
  for (const it of [CASES[0]!, CASES[2]!]) {
    await t.step(`writes over what a rewind leaves: ${it.tokens} tokens`, async () => {
      const { codec, heads, tokens } = it, count = rawCount(codec), few = fields(baseOf(codec)).length;
      const { io, owned, codeBlocks, missed, all } = sampleOf(gpu, it), kept = 300, block = blocks(kept);
      using _ = owned;
      const op = await CodeTier.create(gpu, codec), commands = gpu.commands(), come = tokens - block * BLOCK;
      op.encode(commands, io, { tokens, block: 0, codeBlocks, held: 0 });
      // The scales, and so the tokens that are missed, are those of the blocks: the codes of the first tokens come again.
      op.encode(commands, io, { tokens: come, block, codeBlocks, held: kept - (block - 1) * BLOCK });
      commands.submit();
      const more = await gpu.readU32(io.more), scales = fromF16Array(new Uint16Array(await gpu.read(io.scales)));
      const errors = tokenErrorsRef(
        await gpu.readF32(io.residual),
        scales.subarray(block * BLOCK),
        { heads, headDim: codec.headDim, tokens: come },
        blocks(tokens) * BLOCK,
      );
      const limits = await gpu.readF32(io.thresholds);
      const codesOf = (token: number) => [...all.subarray(token * count + few, (token + 1) * count)];
      for (let k = 0; k < heads; k++) {
        for (let t = 0; t < block * BLOCK + come; t++) {
          if (t >= kept && t < block * BLOCK) continue;
          const from = t < kept ? t : t - block * BLOCK;
          const misses = t < kept ? missed[k * tokens + t]! : errors[k * come + from]! > limits[k]!;
          assertEquals(
            furtherCodes(codec, heads, more, k, t),
            misses ? codesOf(k * tokens + from) : [],
            `token ${t} of head ${k}`,
          );
        }
      }
    });
  }
  await t.step("rejects tokens that there are no residuals of", async () => {
    const it = CASES[3]!, { io, owned, codeBlocks } = sampleOf(gpu, it), op = await CodeTier.create(gpu, it.codec);
    using _ = owned;
    assertThrows(
      () => op.encode(gpu.commands(), io, { tokens: 33, block: 0, codeBlocks, held: 0 }),
      RangeError,
      "33 tokens from block 0",
    );
  });
});
