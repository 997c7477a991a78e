import { assert, assertEquals, assertGreaterOrEqual, assertMatch } from "@std/assert";
import { FileFormatError, UnsupportedModelError } from "../../src/core/errors.ts";
import { createTokenizer, type RawTokenizer } from "../../src/text/tokenizer.ts";
import { smallSentencePiece } from "./_models.ts";

type Hf = RawTokenizer & { kind: "hf" };
// deno-lint-ignore no-explicit-any -- corruptions reach anywhere
type Loose = any;

/** A small tokenizer.json in order, with every part that a corruption below reaches for. */
function soundHuggingFace(): Loose {
  const part = (type: string, more: object = {}): object => ({ type, ...more });
  return {
    kind: "hf",
    tokenizerJson: {
      added_tokens: [{ id: 4, content: "<s>", special: true, normalized: false }],
      normalizer: part("Sequence", {
        normalizers: [
          part("Prepend", { prepend: "▁" }),
          part("Replace", { pattern: { String: " " }, content: "▁" }),
        ],
      }),
      pre_tokenizer: part("Split", { pattern: { Regex: "\\p{N}" }, behavior: "Isolated", invert: false }),
      post_processor: part("TemplateProcessing", {
        single: [{ SpecialToken: { id: "<s>" } }, { Sequence: { id: "A" } }],
        special_tokens: { "<s>": { ids: [4] } },
      }),
      decoder: part("Sequence", {
        decoders: [
          part("Replace", { pattern: { String: "▁" }, content: " " }),
          part("ByteFallback"),
          part("Fuse"),
          part("Strip", { content: " ", start: 1, stop: 0 }),
        ],
      }),
      model: {
        type: "BPE",
        vocab: { "▁": 0, a: 1, b: 2, ab: 3 },
        merges: ["a b"],
        unk_token: "a",
        fuse_unk: false,
        byte_fallback: true,
      },
    },
    tokenizerConfig: { bos_token: "<s>", eos_token: "<s>", add_bos_token: true, chat_template: "x" },
    generationConfig: { eos_token_id: [4] },
  };
}

/** A byte-level vocabulary in order, as GGUF metadata. */
function soundGguf(): Map<string, unknown> {
  return new Map<string, unknown>(Object.entries({
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "llama-bpe",
    "tokenizer.ggml.tokens": ["a", "b", "ab", "<s>"],
    "tokenizer.ggml.token_type": Int32Array.of(1, 1, 1, 3),
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.bos_token_id": 3,
    "tokenizer.ggml.eos_token_id": 3,
    "tokenizer.ggml.add_bos_token": true,
  }));
}

function deep(depth: number, key: string): object {
  let part: object = { type: "ByteLevel", add_prefix_space: false };
  for (let i = 0; i < depth; i++) part = { type: "Sequence", [key]: [part] };
  return part;
}

/** Each of these sets one place of a sound tokenizer to something it may not be. */
const BAD_JSON: Record<string, unknown[]> = {
  "tokenizerJson": [null, [], "x", 5, {}],
  "tokenizerJson.model": [undefined, null, [], "BPE", { type: "BPE" }],
  "tokenizerJson.model.type": [undefined, "Unigram", "WordPiece", 5, "bpe"],
  "tokenizerJson.model.vocab": [undefined, null, {}, [], "abc", { a: 0 }, { a: 1e9, b: 1 }, [["a", -1.5]]],
  "tokenizerJson.model.vocab.a": [-1, 2, 5, 1.5, NaN, Infinity, 2 ** 40, "1", null, undefined, [1]],
  "tokenizerJson.model.merges": [undefined, null, {}, "a b", 5, [5], [null], [["a"]], [["a", "b", "ab"]], [["a", 5]]],
  "tokenizerJson.model.merges.0": ["a", "", "a  b", "a b ab", "a x", "b a", "x y", "constructor a", {}],
  "tokenizerJson.model.unk_token": ["nothing", 5, true],
  "tokenizerJson.model.byte_fallback": ["yes", 1],
  "tokenizerJson.model.ignore_merges": ["yes"],
  "tokenizerJson.model.dropout": [0.1, "x"],
  "tokenizerJson.model.end_of_word_suffix": ["</w>", 5],
  "tokenizerJson.model.continuing_subword_prefix": ["##"],
  "tokenizerJson.added_tokens": [{}, "x", 5, [null], [5], [{ id: 4 }], [{ id: 4, content: "" }]],
  "tokenizerJson.added_tokens.0.id": [-1, 3, 5, 1e12, "4", null, 4.5],
  "tokenizerJson.added_tokens.0.content": [undefined, null, 5, "", "ab"],
  "tokenizerJson.added_tokens.0.special": ["yes", 1],
  "tokenizerJson.added_tokens.0.single_word": [true],
  "tokenizerJson.normalizer": [5, [], {}, { type: 5 }, { type: "Precompiled" }, { type: "Lowercase" }],
  "tokenizerJson.normalizer.normalizers": [undefined, null, {}, [null], [5]],
  "tokenizerJson.normalizer.normalizers.0.prepend": [undefined, 5],
  "tokenizerJson.normalizer.normalizers.1.pattern": [undefined, {}, "x", { String: 5 }, { Regex: "(" }, { String: "" }],
  "tokenizerJson.normalizer.normalizers.1.content": [undefined, 5],
  "tokenizerJson.pre_tokenizer": [
    5,
    { type: "Whitespace" },
    { type: "Metaspace", split: true },
    { type: "Metaspace", split: false, prepend_scheme: 5 },
    { type: "ByteLevel", add_prefix_space: true },
    { type: "ByteLevel" },
    { type: "Digits", individual_digits: "yes" },
    { type: "Sequence" },
    deep(10, "pretokenizers"),
    deep(2000, "pretokenizers"),
  ],
  "tokenizerJson.pre_tokenizer.pattern": [undefined, {}, 5, { Regex: "[" }, { Regex: "(?<a" }, { Regex: "" }],
  "tokenizerJson.pre_tokenizer.behavior": ["MergedWithNext", undefined, 5],
  "tokenizerJson.pre_tokenizer.invert": [true, "x"],
  "tokenizerJson.post_processor": [5, { type: "BertProcessing" }, { type: "TemplateProcessing" }],
  "tokenizerJson.post_processor.single.0": [5, {}, { SpecialToken: 5 }, { SpecialToken: { id: "x" } }],
  "tokenizerJson.post_processor.special_tokens.<s>.ids": [undefined, [], [5], [-1], ["4"], [4, 4], [null]],
  "tokenizerJson.decoder": [
    undefined,
    null,
    5,
    {},
    { type: "WordPiece" },
    { type: "Sequence", decoders: [] },
    deep(9, "decoders"),
  ],
  "tokenizerJson.decoder.decoders": [[{ type: "Strip" }], [{ type: "CTC" }, { type: "Fuse" }]],
  "tokenizerJson.decoder.decoders.0.pattern": [undefined, { Regex: "▁" }, { String: "" }],
  "tokenizerJson.decoder.decoders.3.start": [2, "x"],
  "tokenizerConfig": [5, [], "x"],
  "tokenizerConfig.bos_token": [5, "nothing", {}, []],
  "tokenizerConfig.eos_token": [5, "nothing", { content: 5 }],
  "tokenizerConfig.add_bos_token": ["yes", 1],
  "tokenizerConfig.chat_template": [5, {}, [], [5], [{ name: "default" }]],
  "generationConfig": [5, [], "x"],
  "generationConfig.eos_token_id": [-1, 5, "4", [5], [[4]], 1.5, NaN],
  "chatTemplate": [5],
};

const BAD_METADATA: Record<string, unknown[]> = {
  "model": [undefined, 5, "bert", "t5", ""],
  "pre": [undefined, 5, "tekken", ""],
  "tokens": [undefined, null, 5, "abc", [], [5, "b", "ab", "<s>"], ["a", "", "ab", "<s>"], ["a", "a", "ab", "<s>"], [
    "a",
    undefined,
    "ab",
    "<s>",
  ], Int32Array.of(1, 2, 3, 4)],
  "token_type": [undefined, 5, [], [1, 1, 1], [1, 1, 1, 7], [1, 1, 1, -1], [1, 1, 1, 1.5], ["1", 1, 1, 3], [
    1,
    1,
    NaN,
    3,
  ]],
  "merges": [undefined, 5, {}, ["a"], ["a x"], ["a b ab"], [5], [""], ["ab <s>"]],
  "bos_token_id": [-1, 4, 2 ** 32 - 1, "3", NaN, 1.5, undefined],
  "eos_token_id": [-1, 4, "3"],
  "eot_token_id": [99],
  "add_bos_token": ["yes", 1],
};

const BAD_SENTENCEPIECE: Record<string, unknown[]> = {
  "scores": [undefined, [], 5, "x", new Float32Array(284), new Float32Array(285).fill(NaN), new Array(285).fill("1")],
  "token_type": [undefined, new Int32Array(285).fill(6), new Int32Array(285).fill(1), new Int32Array(285).fill(9)],
  "bos_token_id": [285, -1],
  "add_space_prefix": ["yes", 1],
};

/** `root` with `value` at a dotted path; `undefined` removes. */
function spoil(root: Loose, path: string, value: unknown): Loose {
  const keys = path.split(".");
  const last = keys.pop()!;
  const parent = keys.reduce((object, key) => object[key], root);
  if (value === undefined) delete parent[last];
  else parent[last] = value;
  return root;
}

function assertRefused(raw: RawTokenizer, what: string): void {
  let tokenizer;
  try {
    tokenizer = createTokenizer(raw);
  } catch (error) {
    const typed = error instanceof FileFormatError || error instanceof UnsupportedModelError;
    assert(typed, `${what} ends in ${error}: ${(error as Error).stack}`);
    assertMatch(error.message, /^Cannot (read|use) [^\n]{10,300}$/, `${what}: one short sentence`);
    return;
  }
  assert(false, `${what} was taken, with ${tokenizer.vocabSize} tokens`);
}

function show(value: unknown): string {
  return String(JSON.stringify(value)).slice(0, 60);
}

Deno.test("createTokenizer() refuses every corrupted tokenizer in one sentence", () => {
  const sound = soundHuggingFace() as Hf;
  assertEquals(createTokenizer(sound).encode("ab"), [4, 0, 3], "without corruption it works");
  assertEquals(createTokenizer({ kind: "gguf", metadata: soundGguf() }).encode("ab"), [3, 2]);
  assertEquals(smallSentencePiece().get("tokenizer.ggml.tokens") instanceof Array, true);

  let count = 0;
  for (const [path, values] of Object.entries(BAD_JSON)) {
    for (const value of values) {
      assertRefused(spoil(soundHuggingFace(), path, value), `${path} = ${show(value)}`);
      count++;
    }
  }
  for (const [table, create] of [[BAD_METADATA, soundGguf], [BAD_SENTENCEPIECE, smallSentencePiece]] as const) {
    for (const [name, values] of Object.entries(table)) {
      for (const value of values) {
        const metadata = create();
        const key = `tokenizer.ggml.${name}`;
        if (value === undefined) metadata.delete(key);
        else metadata.set(key, value);
        assertRefused({ kind: "gguf", metadata }, `${key} = ${show(value)}`);
        count++;
      }
    }
  }
  assertGreaterOrEqual(count, 180);
});

Deno.test("createTokenizer() does not take names of Object for tokens", () => {
  const raw = soundHuggingFace();
  raw.tokenizerJson.model.vocab = JSON.parse('{"▁":0,"a":1,"__proto__":2,"constructor":3}');
  raw.tokenizerJson.model.merges = [];
  const tokenizer = createTokenizer(raw);
  assertEquals(tokenizer.decode([1, 2, 3]), "a__proto__constructor");
  const metadata = soundGguf();
  metadata.set("tokenizer.ggml.tokens", ["a", "b", "ab", "__proto__"]);
  assertEquals(createTokenizer({ kind: "gguf", metadata }).encode("__proto__ab", { bos: false }), [3, 2]);
});
