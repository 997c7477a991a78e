import { assert, assertEquals, assertThrows } from "@std/assert";
import { baseOf, fields, GAIN_BITS, moreBits, rawCount } from "../../src/core/codec.ts";
import { BLOCK, blocks, indexWord, moreStarts } from "../../src/core/pack.ts";
import { Rng } from "../../src/core/rng.ts";
import { codeTierShapes } from "../../src/core/shapes.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { encodeFields } from "../../src/kernels/code_encode.ts";
import { CodeTier } from "../../src/kernels/code_tier.ts";
import { codeTierRef, furtherCodes, rankBlock } from "../../src/ref/code_tier.ts";
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

/** A case on the GPU, whose codes fill `more` with noise before there are any, and what comes of it. */
function sampleOf(gpu: Gpu, { codec, heads, tokens, share, room }: (typeof CASES)[number]) {
  const capacity = blocks(tokens) * BLOCK, codeBlocks = blocks(tokens) + 2, rng = new Rng(3);
  const starts = moreStarts(codec, roomsOf(heads, room), codeBlocks),
    size = starts[heads]!,
    list = fields(codec),
    few = fields(baseOf(codec)).length;
  const shapes = codeTierShapes({ codec, heads, capacity, more: size });
  const noise = Uint32Array.from({ length: size }, () => rng.u32());
  noise.set(starts);
  const missed = Array.from({ length: heads * tokens }, () => rng.uniform() < share);
  const masks = new Uint32Array(heads * capacity / BLOCK).fill(~0); // what lies past the last token is not read
  missed.forEach((is, i) => {
    const t = i % tokens, at = Math.floor(i / tokens) * capacity / BLOCK + (t >>> 5);
    if (!is) masks[at]! &= ~(1 << (t & 31));
  });
  const codes = (count: number) =>
    Uint32Array.from(
      { length: heads * capacity * count },
      (_, i) => rng.below(2 ** (list[i % count]?.bits ?? GAIN_BITS)),
    );
  const count = rawCount(codec), all = codes(count), raw = codes(few), owned = new DisposableStack();
  const upload = (name: keyof typeof shapes, data: Uint32Array) =>
    owned.use(gpu.upload(name, "u32", shapes[name], data));
  const io = {
    missed: upload("missed", masks),
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
      // The codes of the first tokens come again.
      op.encode(commands, io, { tokens: come, block, codeBlocks, held: kept - (block - 1) * BLOCK });
      commands.submit();
      const more = await gpu.readU32(io.more);
      const codesOf = (token: number) => [...all.subarray(token * count + few, (token + 1) * count)];
      for (let k = 0; k < heads; k++) {
        for (let t = 0; t < block * BLOCK + come; t++) {
          if (t >= kept && t < block * BLOCK) continue;
          const from = t < kept ? t : t - block * BLOCK;
          const misses = missed[k * tokens + from]!;
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
