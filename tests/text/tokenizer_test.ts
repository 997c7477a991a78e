import { assert, assertEquals, assertThrows } from "@std/assert";
import { FileFormatError, UnsupportedModelError } from "../../src/core/errors.ts";
import { createTokenizer, type RawTokenizer, type Tokenizer } from "../../src/text/tokenizer.ts";
import { fableGguf, fableHuggingFace, smallSentencePiece } from "./_models.ts";

interface Reference {
  strings: string[];
  with_bos: number[][];
  without_bos: number[][];
  decoded: string[];
}
const reference: Reference = JSON.parse(
  Deno.readTextFileSync(new URL("../fixtures/tokenization.json", import.meta.url)),
);

for (const [source, raw] of [["tokenizer.json", fableHuggingFace()], ["GGUF", await fableGguf()]] as const) {
  Deno.test(`createTokenizer() gives the reference's ids and text when read from ${source}`, () => {
    const tokenizer = createTokenizer(raw);
    assertEquals(tokenizer.vocabSize, 8192);
    assertEquals([tokenizer.bos, tokenizer.eos, tokenizer.addsBos], [0, [1], true]);
    assertEquals(reference.strings.length, 20);
    reference.strings.forEach((text, i) => {
      assertEquals(tokenizer.encode(text, { bos: true }), reference.with_bos[i], JSON.stringify(text));
      assertEquals(tokenizer.encode(text, { bos: false }), reference.without_bos[i], JSON.stringify(text));
      assertEquals(tokenizer.encode(text), reference.with_bos[i], "the model's settings add BOS");
      assertEquals(tokenizer.decode(reference.without_bos[i]!), reference.decoded[i]);
      assertEquals(tokenizer.decode([0, ...reference.without_bos[i]!]), "<|begin_of_text|>" + reference.decoded[i]);
    });
    const marked = reference.with_bos[12]!;
    assertEquals(tokenizer.decode(marked, { skipSpecial: true }), "literal special");
  });
}

Deno.test("decode() turns every id into bytes and no id into nothing", () => {
  const tokenizer = createTokenizer(fableHuggingFace());
  assertEquals(tokenizer.decode([]), "");
  assertEquals(tokenizer.decode([8192, 1 << 30]), "", "rows that pad an embedding have no text");
  for (let id = 2; id < 258; id++) assertEquals(tokenizer.bytes(id).length, 1, "the alphabet is one byte each");
  assertEquals(new Set(Array.from({ length: 256 }, (_, i) => tokenizer.bytes(i + 2)[0])).size, 256);
  assertEquals(tokenizer.decode(tokenizer.encode("\ufeffa", { bos: false })), "\ufeffa", "U+FEFF is text");
  assertEquals(tokenizer.decode(tokenizer.encode("a\ud800b", { bos: false })), "a\ufffdb");
  for (const id of [-1, 1.5, NaN]) assertThrows(() => tokenizer.decode([id]), RangeError, "whole number");
  assertThrows(() => tokenizer.encode(5 as unknown as string), TypeError, "string");
});

// --- SentencePiece ---------------------------------------------------------------------------------------------------

/** SentencePiece by the definition: look at all neighbours, join the best pair, begin again. */
function slowSentencePiece(metadata: Map<string, unknown>, text: string): number[] {
  const tokens = metadata.get("tokenizer.ggml.tokens") as string[];
  const scores = metadata.get("tokenizer.ggml.scores") as number[];
  const kinds = metadata.get("tokenizer.ggml.token_type") as number[];
  const idOf = (piece: string): number => tokens.findIndex((token, id) => token === piece && kinds[id] === 1);
  const parts = [...("▁" + text).replaceAll(" ", "▁")];
  while (true) {
    let best = -1, bestScore = -Infinity;
    for (let i = 0; i + 1 < parts.length; i++) {
      const id = idOf(parts[i]! + parts[i + 1]!);
      if (id >= 0 && scores[id]! > bestScore) [best, bestScore] = [i, scores[id]!];
    }
    if (best < 0) break;
    parts.splice(best, 2, parts[best]! + parts[best + 1]!);
  }
  return parts.flatMap((part) => {
    if (idOf(part) >= 0) return [idOf(part)];
    return Array.from(new TextEncoder().encode(part), (byte) => byte + 3);
  });
}

/** Deterministic numbers below `n`. */
function randoms(seed: number): (n: number) => number {
  return (n) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * n);
  };
}

Deno.test("encode() merges as SentencePiece does, ties included", () => {
  const metadata = smallSentencePiece();
  const tokenizer = createTokenizer({ kind: "gguf", metadata });
  const random = randoms(1);
  const alphabet = ["a", "a", "a", "b", "b", "c", " ", " ", "é", "漢", "字", "x", "🙂", "▁"];
  for (let round = 0; round < 3000; round++) {
    const text = Array.from({ length: 1 + random(24) }, () => alphabet[random(alphabet.length)]).join("");
    const ids = tokenizer.encode(text, { bos: false });
    assertEquals(ids, slowSentencePiece(metadata, text), `round ${round}: ${JSON.stringify(text)}`);
    assertEquals(tokenizer.decode(ids), text.replaceAll("▁", " "));
  }
});

Deno.test("encode() puts a space before text, and finds marked tokens, in SentencePiece", () => {
  const plain = (changes?: Record<string, unknown>): Tokenizer =>
    createTokenizer({ kind: "gguf", metadata: smallSentencePiece(changes) });
  const pieces = (tokenizer: Tokenizer, text: string): string =>
    tokenizer.encode(text).map((id) => tokenizer.token(id)).join(" ");
  const tokenizer = plain();
  assertEquals([tokenizer.bos, tokenizer.eos, tokenizer.addsBos], [1, [2], true]);
  assertEquals(pieces(tokenizer, ""), "<s>");
  assertEquals(pieces(tokenizer, "c"), "<s> ▁ c");
  assertEquals(pieces(tokenizer, "b<tool>b</s>"), "<s> ▁b <tool> ▁b </s>");
  assertEquals(pieces(tokenizer, "<s>"), "<s> <s>", "written out it is text's own");
  assertEquals(tokenizer.decode(tokenizer.encode("b<tool>b</s>", { bos: false })), "b<tool> b</s>");
  assertEquals(tokenizer.decode(tokenizer.encode("b<tool>b</s>"), { skipSpecial: true }), "b<tool> b");
  const bare = plain({ "tokenizer.ggml.add_space_prefix": false, "tokenizer.ggml.add_bos_token": false });
  assertEquals(pieces(bare, "b<tool>b"), "b <tool> b");
  assertEquals(bare.decode(bare.encode(" b")), " b", "no space was added, so none is dropped");
});

Deno.test("encode() writes a run of unknown characters as one token when there are no bytes", () => {
  const metadata = new Map<string, unknown>([
    ["tokenizer.ggml.model", "llama"],
    ["tokenizer.ggml.tokens", ["<unk>", "<s>", "</s>", "▁", "a"]],
    ["tokenizer.ggml.token_type", [2, 3, 3, 1, 1]],
    ["tokenizer.ggml.scores", [0, 0, 0, -1, -2]],
  ]);
  assertEquals(createTokenizer({ kind: "gguf", metadata }).encode("axya z"), [1, 3, 4, 0, 4, 3, 0]);
  metadata.set("tokenizer.ggml.token_type", [3, 3, 3, 1, 1]);
  assertThrows(() => createTokenizer({ kind: "gguf", metadata }), FileFormatError, "256 byte tokens");
});

Deno.test("encode() takes the longest marked token at each place", () => {
  const metadata = new Map<string, unknown>([
    ["tokenizer.ggml.model", "llama"],
    ["tokenizer.ggml.tokens", ["<unk>", "<s>", "</s>", "▁", "<t", "<t>", "<t>>", "."]],
    ["tokenizer.ggml.token_type", [2, 3, 3, 1, 4, 4, 4, 1]],
    ["tokenizer.ggml.scores", new Float32Array(8)],
    ["tokenizer.ggml.add_space_prefix", false],
  ]);
  assertEquals(createTokenizer({ kind: "gguf", metadata }).encode("<t<t>.<t>>"), [1, 4, 5, 7, 6]);
});

Deno.test("encode() takes a long text in one piece in reasonable time", () => {
  const tokenizer = createTokenizer({ kind: "gguf", metadata: smallSentencePiece() });
  const text = "abc ab 漢字 aaab ".repeat(10_000);
  const start = performance.now();
  assertEquals(tokenizer.decode(tokenizer.encode(text), { skipSpecial: true }), text);
  assert(performance.now() - start < 10_000, "merging must not be quadratic");
});

// --- Kinds of tokenizer.json -----------------------------------------------------------------------------------------

/** LLaMA 2's kind of tokenizer.json over the small vocabulary; its merges come from scores without ties. */
function llama2Json(): { json: Record<string, unknown>; gguf: RawTokenizer } {
  const metadata = smallSentencePiece();
  const tokens = metadata.get("tokenizer.ggml.tokens") as string[];
  const scores = Float32Array.from(tokens, (_, id) => -id);
  metadata.set("tokenizer.ggml.scores", scores);
  const merges: string[] = [];
  tokens.slice(259).forEach((token) => {
    for (let cut = 1; cut < token.length; cut++) {
      const pair = [token.slice(0, cut), token.slice(cut)];
      if (pair.every((part) => tokens.includes(part))) merges.push(pair.join(" "));
    }
  });
  const added = ["<unk>", "<s>", "</s>", "<tool>"].map((content) => ({
    id: tokens.indexOf(content),
    content,
    special: content !== "<tool>",
    normalized: false,
  }));
  const json = {
    added_tokens: added,
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
      unk_token: "<unk>",
      fuse_unk: true,
      byte_fallback: true,
    },
  };
  return { json, gguf: { kind: "gguf", metadata } };
}

Deno.test("createTokenizer() reads LLaMA 2's tokenizer.json as its GGUF", () => {
  const { json, gguf } = llama2Json();
  const one = createTokenizer({ kind: "hf", tokenizerJson: json });
  const other = createTokenizer(gguf);
  assertEquals([one.bos, one.addsBos, one.vocabSize], [other.bos, other.addsBos, other.vocabSize]);
  for (const text of ["", " ", "abc ab", "  a<tool>  b</s>ab", "é漢字x🙂", "\n\0a", "aab baa  "]) {
    const ids = other.encode(text);
    assertEquals(one.encode(text), ids, JSON.stringify(text));
    assertEquals(one.decode(ids), other.decode(ids), JSON.stringify(text));
    assertEquals(one.decode(ids, { skipSpecial: true }), other.decode(ids, { skipSpecial: true }));
  }
});

Deno.test("createTokenizer() reads a Metaspace that prepends to the first section only", () => {
  const { json } = llama2Json();
  const part = { type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: false };
  const tokenizer = createTokenizer({ kind: "hf", tokenizerJson: { ...json, normalizer: null, pre_tokenizer: part } });
  const pieces = tokenizer.encode("b<tool>b").map((id) => tokenizer.token(id));
  assertEquals(pieces, ["<s>", "▁b", "<tool>", "b"]);
});

/** A byte-level vocabulary: the alphabet, and what the merges make. */
function byteLevelGguf(pre: string, merges: string[], changes: Record<string, unknown> = {}): RawTokenizer {
  const fable = createTokenizer(fableHuggingFace());
  const alphabet = Array.from({ length: 256 }, (_, i) => fable.token(i + 2));
  const tokens = [...alphabet, ...merges.map((merge) => merge.replace(" ", "")), "<|begin|>", "<|eot_id|>", "<tool>"];
  const metadata = new Map<string, unknown>(Object.entries({
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": pre,
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.token_type": tokens.map((_, id) => id < tokens.length - 3 ? 1 : id < tokens.length - 1 ? 3 : 4),
    "tokenizer.ggml.merges": merges,
    ...changes,
  }));
  return { kind: "gguf", metadata };
}

Deno.test("createTokenizer() cuts words by the pre-tokenizer that a GGUF names", () => {
  const merges = ["1 2", "12 3", "123 4", ". .", "Ġ 1", "Ġ a", "' S", "Ċ Ċ", "( a"];
  const expected = {
    "llama-bpe": "Ġa|Ġ|123|4|..|Ġ|12|ĊĊ|a|'S|(a",
    "qwen2": "Ġa|Ġ|1|2|3|4|..|Ġ|1|2|ĊĊ|a|'S|(a",
    "gpt-2": "Ġa|Ġ|1234|..|Ġ|12|Ċ|Ċ|a|'|S|(|a",
    "default": "Ġa|Ġ|123|4|..|Ġ|12|Ċ|Ċ|a|'|S|(|a",
  };
  for (const [pre, want] of Object.entries(expected)) {
    const tokenizer = createTokenizer(byteLevelGguf(pre, merges));
    const text = " a 1234.. 12\n\na'S(a";
    const ids = tokenizer.encode(text, { bos: false });
    assertEquals(ids.map((id) => tokenizer.token(id)).join("|"), want, pre);
    assertEquals(tokenizer.decode(ids), text);
  }
  assertThrows(() => createTokenizer(byteLevelGguf("tekken", merges)), UnsupportedModelError, '"tekken"');
});

Deno.test("createTokenizer() takes whole words past their merges for llama-bpe only", () => {
  const changes = (tokens: string[]): Record<string, unknown> => ({
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.token_type": tokens.map(() => 1),
    "tokenizer.ggml.bos_token_id": 0,
  });
  const tokens = [...byteLevelTokens(), "abc"];
  assertEquals(createTokenizer(byteLevelGguf("llama-bpe", [], changes(tokens))).encode("abc", { bos: false }), [256]);
  assertEquals(createTokenizer(byteLevelGguf("qwen2", [], changes(tokens))).encode("abc", { bos: false }).length, 3);
});

function byteLevelTokens(): string[] {
  const raw = byteLevelGguf("gpt-2", []);
  return raw.kind === "gguf" ? (raw.metadata.get("tokenizer.ggml.tokens") as string[]).slice(0, 256) : [];
}

Deno.test("encode() cuts digits and words by Unicode when tokenizer.json says Digits and ByteLevel", () => {
  const alphabet = byteLevelTokens();
  const id = (token: string): number => alphabet.indexOf(token);
  const tokens = [...alphabet, "12", "ĠĠ"];
  const tokenizer = createTokenizer({
    kind: "hf",
    tokenizerJson: {
      model: {
        type: "BPE",
        vocab: Object.fromEntries(tokens.map((token, i) => [token, i])),
        merges: [["1", "2"], ["Ġ", "Ġ"]],
      },
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [
          { type: "Digits", individual_digits: true },
          { type: "ByteLevel", add_prefix_space: false, use_regex: true },
        ],
      },
      decoder: { type: "ByteLevel" },
    },
  });
  assertEquals(tokenizer.encode("12   a"), [id("1"), id("2"), 257, id("Ġ"), id("a")]);
  assertEquals([tokenizer.bos, tokenizer.addsBos, tokenizer.eos], [null, false, []]);
  assertThrows(() => tokenizer.encode("a", { bos: true }), RangeError, "it has none");
});

// --- BOS and EOS -----------------------------------------------------------------------------------------------------

Deno.test("createTokenizer() adds BOS as the files say", () => {
  const { json } = llama2Json();
  const adds = (tokenizerConfig: object, tokenizerJson: object = json): boolean =>
    createTokenizer({ kind: "hf", tokenizerJson, tokenizerConfig }).addsBos;
  const bare = { ...json, post_processor: null };
  assertEquals(adds({}), true, "its own template does");
  assertEquals(adds({ add_bos_token: false }), false, "said outright");
  assertEquals(adds({ bos_token: "<s>" }, bare), false, "nothing says so");
  assertEquals(adds({ bos_token: { content: "<s>" }, add_bos_token: true }, bare), true);
  assertEquals(adds({ bos_token: "<s>", tokenizer_class: "LlamaTokenizer" }, bare), true, "LLaMA's class does");
  assertThrows(() => adds({ add_bos_token: true }, bare), FileFormatError, "bos_token");

  const gguf = (pre: string, changes: Record<string, unknown>): boolean =>
    createTokenizer(byteLevelGguf(pre, [], { "tokenizer.ggml.bos_token_id": 256, ...changes })).addsBos;
  assertEquals(gguf("llama-bpe", {}), true);
  assertEquals(gguf("gpt-2", {}), false);
  assertEquals(gguf("gpt-2", { "tokenizer.ggml.add_bos_token": true }), true);
});

Deno.test("createTokenizer() collects every token that ends a text, the tokenizer's own first", () => {
  const { json } = llama2Json();
  const eos = (tokenizerConfig?: object, generationConfig?: object): readonly number[] =>
    createTokenizer({ kind: "hf", tokenizerJson: json, tokenizerConfig, generationConfig }).eos;
  assertEquals(eos(), []);
  assertEquals(eos({ eos_token: "</s>" }), [2]);
  assertEquals(eos({ eos_token: "</s>" }, { eos_token_id: 2 }), [2]);
  assertEquals(eos({ eos_token: "</s>" }, { eos_token_id: [0, 2] }), [2, 0]);
  const gguf = createTokenizer(byteLevelGguf("gpt-2", [], { "tokenizer.ggml.eos_token_id": 256 }));
  assertEquals(gguf.eos.map((id) => gguf.token(id)), ["<|begin|>", "<|eot_id|>"], "llama.cpp ends turns by name too");
});
