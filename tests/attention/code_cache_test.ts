import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { CodeCache } from "../../src/attention/code_cache.ts";
import { FileFormatError } from "../../src/core/errors.ts";
import { readCodebook, type Tier } from "../../src/codebook/file.ts";
import { inside, type Llama, load } from "../../src/llama/llama.ts";
import { Session } from "../../src/llama/session.ts";

const MODEL = new URL("../../models/fable-28m/fable-28m.Q8_0.gguf", import.meta.url);
const CODEBOOK = new URL("../../models/fable-28m/codebooks.safetensors", import.meta.url);
const PROMPT =
  "The captain looked out over the sea and saw nothing but water. He called to the men below, and one of them came up. " +
  "There was a light, he said, far away to the north, where no light should be. They all looked, and none of them spoke. " +
  "At last the oldest of them said that he had seen such a light once before, when he was a boy, and that no ship had come back.";

/** Generates by the fused kernels and from the decoded vectors, across flushes, a fork and rewinds. */
async function comparePaths(llama: Llama, maxTokens: number): Promise<void> {
  const { compressed, config, ...engine } = inside(llama), options = { maxTokens, ignoreEos: true };
  const session = (decodes: boolean) =>
    new Session({ ...engine, config }, new CodeCache(compressed!.attention, config.layers, 256, decodes));
  using fused = session(false), plain = session(true);
  const first = await fused.generate(PROMPT, options).done;
  assertEquals(first.tokens, (await plain.generate(PROMPT, options).done).tokens);
  assert(first.promptTokens.length + maxTokens > 4 + 64 + 32, "nothing was flushed: the test tests nothing");
  using fusedFork = fused.fork(), plainFork = plain.fork();
  for (const keep of [fusedFork.tokens.length - 11, 61]) { // into the window, then into a block of codes
    for (const s of [fusedFork, plainFork]) s.rewind(keep);
    const text = llama.tokenizer.decode(fusedFork.tokens.slice(1)) + " Then the";
    const [a, b] = [await fusedFork.generate(text, options).done, await plainFork.generate(text, options).done];
    assertEquals(a.tokens, b.tokens, `after a rewind to ${keep}`);
    assert(a.usage.reusedTokens >= keep - 1, `only ${a.usage.reusedTokens} of ${keep} tokens were reused`);
  }
  const text = llama.tokenizer.decode(fused.tokens.slice(1)); // the forks left their origin as it was
  const [a, b] = [await fused.generate(text, options).done, await plain.generate(text, options).done];
  assertEquals(a.tokens, b.tokens);
}

Deno.test("a compressed cache", async (t) => {
  using llama = await load(MODEL, { kv: { bits: { k: 2, v: 1 }, window: 32, sinks: 4 }, maxContext: 256 });
  await t.step(
    "generates what a cache of the decoded vectors does, across flushes, a fork and rewinds",
    () => comparePaths(llama, 40),
  );

  await t.step("is as large as it says", () => {
    using own = llama.session();
    const { bytes, f16Bytes, bits } = llama.kv;
    assertEquals(own.bytes, bytes);
    assertEquals([bits.k, bits.v], [(120 + 4) / 64, (24 + 32 + 4) / 64]); // ten pairs; two pairs and four groups
    assert(bytes < f16Bytes, "256 tokens already save memory");
    const { bitsCode, bitsEffective, bitsAll, codebookBytes } = llama.kv, elements = 2 * 8 * 4 * 64;
    assertEquals([bitsCode, bitsEffective(60), bitsEffective(68)], [(bits.k + bits.v) / 2, 16, 16]);
    // 4 sinks and a ring of 64: the 69th token has a block encoded; of 200 tokens 160 are.
    assertAlmostEquals(bitsEffective(69), (32 * bitsCode + 37 * 16) / 69);
    assertAlmostEquals(bitsEffective(200), (160 * bitsCode + 40 * 16) / 200);
    assertAlmostEquals(bitsAll(200), bitsEffective(200) + 8 * codebookBytes / (200 * elements));
  });
});

Deno.test("a compressed cache in tiers", async (t) => {
  using llama = await load(MODEL, { kv: { bits: 1, window: 32 }, maxContext: 256 }); // as the bundled codebook has them
  await t.step("generates what a cache of the decoded vectors does", () => comparePaths(llama, 12));
  await t.step("is as large as it says, and goes on when restored as it would have", async () => {
    using own = llama.session();
    const { bytes, bits } = llama.kv;
    assertEquals(own.bytes, bytes);
    // A word for each of four heads and one, two words of index a block and head, and room for an eighth more than the
    // share, in whole blocks, with a gain of 4 bits.
    const { keys, values } = (await readCodebook(CODEBOOK)).tiers![1]!;
    const of = ({ base, stages, shares }: Tier, ofStages: readonly number[]) => {
      const sum = (from: number, to: number) => ofStages.slice(from, to).reduce((a, b) => a + b);
      const room = (share: number) => Math.min(256, Math.ceil((Math.ceil(1.125 * share * 256) + 32) / 32) * 32);
      const rooms = shares.flat().map(room),
        bits = (sum(base, stages) + 4) * rooms.reduce((a, b) => a + b) / rooms.length;
      return sum(0, base) / 64 + (32 * ((8 + 9) * 2 + 5 / 4) + bits) / (256 * 64) + 16 / 256;
    };
    assertAlmostEquals(bits.k, of(keys, new Array(14).fill(12)));
    assertAlmostEquals(bits.v, of(values, [12, 12, 32, 32, 32, 12, 12]));
    const folder = await Deno.makeTempDir(), path = `${folder}/cache.safetensors`;
    try {
      await own.generate(PROMPT, { maxTokens: 20, ignoreEos: true }).done;
      await own.save(path);
      using other = llama.session();
      await other.restore(path);
      const text = llama.tokenizer.decode(own.tokens.slice(1)) + " Then the",
        options = { maxTokens: 40, ignoreEos: true };
      const [a, b] = [await own.generate(text, options).done, await other.generate(text, options).done];
      assertEquals(a.tokens, b.tokens);
      assert(b.usage.reusedTokens > 100, `only ${b.usage.reusedTokens} were reused`);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
});

Deno.test("a compressed cache keeps to the exact one while all tokens are in its window", async () => {
  const options = { maxTokens: 20, ignoreEos: true };
  using exact = await load(MODEL, { maxContext: 256 });
  using llama = await load(MODEL, { kv: { bits: 1, window: 128 }, maxContext: 256 });
  assertEquals(
    (await llama.generate(PROMPT, options).done).tokens,
    (await exact.generate(PROMPT, options).done).tokens,
  );
});

Deno.test("load() refuses bits and codebooks that it cannot use", async () => {
  const bits = (k: number, v: number) => load(MODEL, { kv: { bits: { k, v } as never } });
  await assertRejects(() => bits(3, 3), RangeError, "must be 1, 2 or 16");
  await assertRejects(() => bits(16, 1), RangeError, "compress both or none");
  await assertRejects(() => load(MODEL, { kv: { bits: 1, window: -1 } }), RangeError, "window must be a whole number");
  const book = await readCodebook(CODEBOOK);
  const other = { ...book, model: { ...book.model, fingerprint: "another" } };
  await assertRejects(
    () => load(MODEL, { kv: { bits: 1, codebook: other } }),
    FileFormatError,
    "Train a codebook for this model",
  );
  const folder = await Deno.makeTempDir();
  try {
    await Deno.copyFile(MODEL, `${folder}/alone.gguf`);
    await assertRejects(() => load(`${folder}/alone.gguf`, { kv: { bits: 1 } }), Error, "no codebook was given");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
