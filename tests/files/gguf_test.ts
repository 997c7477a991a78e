import { assert, assertEquals, assertRejects } from "@std/assert";
import { FileFormatError, UnsupportedModelError } from "../../src/core/errors.ts";
import { type Gguf, readGguf } from "../../src/files/gguf.ts";
import { openSource } from "../../src/files/source.ts";
import { gguf, type Typed } from "./_files.ts";

const FABLE = new URL("../../models/fable-28m/fable-28m.Q8_0.gguf", import.meta.url);

async function read(bytes: Uint8Array): Promise<Gguf> {
  const path = await Deno.makeTempFile({ suffix: ".gguf" });
  try {
    await Deno.writeFile(path, bytes);
    using source = await openSource(path);
    return await readGguf(source);
  } finally {
    await Deno.remove(path);
  }
}

Deno.test("readGguf() reads the bundled model", async () => {
  using source = await openSource(FABLE);
  const { metadata, tensors } = await readGguf(source);
  assertEquals(metadata.get("general.architecture"), "llama");
  assertEquals(metadata.get("llama.block_count"), 8);
  assertEquals(metadata.get("llama.rope.freq_base"), 500_000);
  assertEquals(metadata.get("llama.attention.layer_norm_rms_epsilon"), Math.fround(1e-5));
  const tokens = metadata.get("tokenizer.ggml.tokens") as string[];
  assertEquals([tokens.length, tokens[0]], [8192, "<|begin_of_text|>"]);
  assertEquals(tensors.size, 8 * 9 + 2);
  const embed = tensors.get("token_embd.weight")!;
  assertEquals([embed.type, embed.shape, embed.byteLength], ["Q8_0", [8192, 512], 8192 * 512 / 32 * 34]);
  assertEquals(tensors.get("blk.7.ffn_down.weight")!.shape, [512, 1408]);
  assertEquals(tensors.get("blk.0.attn_norm.weight")!.type, "F32");
  const end = Math.max(...[...tensors.values()].map((t) => t.offset + t.byteLength));
  assert(source.size - end < 32, `${source.size - end} bytes left over`);
});

Deno.test("readGguf() reads values of every type, also in arrays", async () => {
  const values: [Typed, unknown?][] = [
    [{ type: "u8", value: 200 }],
    [{ type: "i8", value: -7 }],
    [{ type: "u16", value: 60_000 }],
    [{ type: "i16", value: -6000 }],
    [{ type: "u32", value: 4e9 }],
    [{ type: "i32", value: -2e9 }],
    [{ type: "f32", value: 0.1 }, Math.fround(0.1)],
    [{ type: "bool", value: 1 }, true],
    [{ type: "string", value: "naïve 漢" }],
    [{ type: "u64", value: 2 ** 53 - 1 }],
    [{ type: "u64", value: 2n ** 64n - 1n }],
    [{ type: "i64", value: -(2 ** 40) }],
    [{ type: "i64", value: -(2n ** 63n) }],
    [{ type: "f64", value: 0.1 }],
    [{ type: "i8s", value: [1, -2, 3] }],
    [{ type: "f32s", value: [0.5, -1] }],
    [{ type: "bools", value: [1, 0] }, [true, false]],
    [{ type: "u64s", value: [2 ** 40, 0] }],
    [{ type: "strings", value: ["a", "", "\ufeffb"] }], // a byte order mark is text like any other
    [{ type: "arrays", value: [{ type: "u32s", value: [1, 2] }, { type: "u32s", value: [3] }] }, [[1, 2], [3]]],
    [{ type: "u32s", value: [] }],
  ];
  const { metadata } = await read(gguf(values.map(([typed], i) => [`key ${i}`, typed] as const), []));
  assertEquals([...metadata.values()], values.map(([{ value }, expected = value]) => expected));
});

Deno.test("readGguf() reads version 2, any alignment, and headers of several pieces", async () => {
  const words = Array.from({ length: 150_000 }, (_, i) => `word ${i}`), scores = words.map((_, i) => i / 2);
  const { metadata, tensors } = await read(gguf(
    {
      "general.alignment": { type: "u32", value: 4096 },
      words: { type: "strings", value: words },
      scores: { type: "f32s", value: scores },
      last: { type: "u32", value: 7 },
    },
    [{ name: "a", dims: [2, 3], type: 0, offset: 0 }, { name: "b", dims: [1], type: 0, offset: 4096 }],
    { version: 2, data: 12_288 },
  ));
  assertEquals(metadata.get("words"), words);
  assertEquals(metadata.get("scores"), scores);
  assertEquals(metadata.get("last"), 7);
  const [a, b] = [tensors.get("a")!, tensors.get("b")!];
  assertEquals([a.shape, a.byteLength, a.offset % 4096, b.offset - a.offset], [[3, 2], 24, 0, 4096]);
});

Deno.test("readGguf() reads shapes outermost first and sizes by type", async () => {
  const types = {
    F32: [0, 1024],
    F16: [1, 512],
    BF16: [30, 512],
    Q8_0: [8, 272],
    Q4_0: [2, 144],
    Q4_K: [12, 144],
    Q6_K: [14, 210],
  };
  const entries = Object.entries(types).map(([name, [type]]) => ({ name, dims: [256, 3], type: type! }));
  const { tensors } = await read(gguf({}, entries));
  for (const [type, [, bytes]] of Object.entries(types)) {
    const found = tensors.get(type)!;
    assertEquals([found.type, found.shape, found.byteLength], [type, [3, 256], 3 * bytes!]);
  }
});

Deno.test("readGguf() names a type that it knows and does not support", async () => {
  const of = (type: number) => read(gguf({}, [{ name: "w", dims: [256], type }]));
  await assertRejects(() => of(13), UnsupportedModelError, "'w' is of type Q5_K: supported are F32,");
  await assertRejects(() => of(99), FileFormatError, "'w' has an unknown type: 99");
});

Deno.test("readGguf() refuses a key or a tensor that comes twice", async () => {
  const value = { type: "u32", value: 1 } as const, entry = { name: "w", dims: [8], type: 0 };
  await assertRejects(() => read(gguf([["a", value], ["a", value]], [])), FileFormatError, "key 'a' appears twice");
  await assertRejects(() => read(gguf({}, [entry, entry])), FileFormatError, "the tensor 'w' appears twice");
});

Deno.test("readGguf() takes no alignment that is not a whole power of two", async () => {
  for (const value of [NaN, 8.5, 12, 4, Infinity]) {
    const bytes = gguf({ "general.alignment": { type: "f64", value } }, [{ name: "w", dims: [8], type: 0 }]);
    await assertRejects(() => read(bytes), FileFormatError, "general.alignment must be a power of two");
  }
});

Deno.test("readGguf() bounds the elements of all arrays together", async () => {
  const half = { type: "u8s", value: new Uint8Array(2 ** 21) } as const;
  assertEquals((await read(gguf({ a: half, b: half }, []))).metadata.size, 2);
  const one = { type: "u8s", value: [1] } as const;
  await assertRejects(
    () => read(gguf({ a: half, b: half, c: one }, [])),
    FileFormatError,
    "its arrays have more than 4194304 elements together",
  );
});

Deno.test("readGguf() says where a tensor may not lie", async () => {
  const at = (...offsets: number[]) =>
    read(gguf({}, offsets.map((offset, i) => ({ name: `w${i}`, dims: [16], type: 0, offset })), { data: 128 }));
  assertEquals((await at(0, 64)).tensors.size, 2);
  await assertRejects(() => at(4), FileFormatError, "'w0' must lie at a multiple of 32: it is at 4");
  await assertRejects(() => at(0, 96), FileFormatError, "'w1' points past its end: it needs");
  await assertRejects(() => at(64, 32), FileFormatError, "'w1' and 'w0' overlap");
});

Deno.test("readGguf() takes no truth but 0 and 1", async () => {
  const typed: Typed[] = [{ type: "bool", value: 2 }, { type: "bools", value: [0, 1, 255] }];
  for (const a of typed) {
    await assertRejects(() => read(gguf({ a }, [])), FileFormatError, "'a' must be true or false: it is 2");
  }
});
