/**
 * The tokenizer in a GGUF's metadata (`tokenizer.ggml.*`), with the defaults that llama.cpp gives to what is left out.
 *
 * @module
 */
import { BYTE, CONTROL, createSentencePiece, NORMAL, UNKNOWN, USER_DEFINED } from "./sentencepiece.ts";
import { GPT2_SPLIT, readTokenizerJson, splitAt } from "./tokenizer_json.ts";
import {
  type Json,
  malformed,
  optionalBoolean,
  optionalId,
  optionalString,
  type TokenizerSettings,
  unsupported,
  type Vocabulary,
} from "./vocabulary.ts";

/** The Llama-3 rule for words, with 1 to `digits` digits together. */
function llama3Split(digits: string): string {
  return "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" + digits +
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
}

const LLAMA3 = [llama3Split("{1,3}")];

/** Regular expressions, one after the other, of each pre-tokenizer that `tokenizer.ggml.pre` may name. */
const SPLITS: ReadonlyMap<unknown, string[]> = new Map([
  ["llama-bpe", LLAMA3],
  ["llama3", LLAMA3],
  ["llama-v3", LLAMA3],
  ["qwen2", [llama3Split("")]],
  ["gpt-2", [GPT2_SPLIT]],
  ["gpt2", [GPT2_SPLIT]],
  // What llama.cpp does for a file that was converted before pre-tokenizers had names.
  ["default", ["[\\p{P}$+<=>\\^~|]+", GPT2_SPLIT, "\\p{N}+", "[0-9][0-9][0-9]"]],
]);

/** Tokens that end a turn of a chat, wherever a vocabulary has them as control tokens. */
const TURN_ENDS = ["<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>"];

/**
 * The vocabulary and the settings of a GGUF.
 *
 * @throws {FileFormatError} Where an entry is missing, of the wrong type, or contradicts another.
 * @throws {UnsupportedModelError} Where the model or the pre-tokenizer is of another kind.
 */
export function readGgufVocabulary(metadata: ReadonlyMap<string, unknown>): [Vocabulary, TokenizerSettings] {
  const get = (name: string): unknown => metadata.get(`tokenizer.ggml.${name}`);
  const model = optionalString(get("model"), "tokenizer.ggml.model");
  if (model === null) throw malformed("tokenizer.ggml.model must be there", undefined);
  if (model !== "gpt2" && model !== "llama") throw unsupported("model", model, '"gpt2" or "llama"');
  const pre = optionalString(get("pre"), "tokenizer.ggml.pre");
  const tokens = readTokens(get("tokens"));
  const kinds = readNumbers(get("token_type"), "token_type", tokens.length);
  const badKind = kinds.find((kind) => !(Number.isInteger(kind) && kind >= 0 && kind <= BYTE));
  if (badKind !== undefined) throw malformed("each tokenizer.ggml.token_type must be 0 to 6", badKind);
  const vocabulary = model === "gpt2" ? readBytePairs(tokens, kinds, pre, get("merges")) : createSentencePiece({
    tokens,
    kinds,
    scores: readNumbers(get("scores"), "scores", tokens.length),
    addsSpace: optionalBoolean(get("add_space_prefix"), "add_space_prefix") ?? true,
  });

  const isLlama = model === "llama";
  const bos = optionalId(get("bos_token_id") ?? (isLlama ? 1 : null), "bos_token_id", tokens);
  const addsByDefault = isLlama || SPLITS.get(pre) === LLAMA3;
  const addsBos = optionalBoolean(get("add_bos_token"), "add_bos_token") ?? (addsByDefault && bos !== null);
  if (addsBos && bos === null) throw malformed("add_bos_token needs a bos_token_id", undefined);
  const eos = ["eos_token_id", "eot_token_id", "eom_token_id"].map((name) => optionalId(get(name), name, tokens));
  if (isLlama) eos[0] ??= optionalId(2, "eos_token_id", tokens);
  for (const end of TURN_ENDS) {
    const id = tokens.indexOf(end);
    if (kinds[id] === CONTROL) eos.push(id);
  }
  return [vocabulary, {
    bos,
    addsBos,
    eos: [...new Set(eos)].filter((id) => id !== null),
    chatTemplate: optionalString(metadata.get("tokenizer.chat_template"), "tokenizer.chat_template"),
  }];
}

function readTokens(value: unknown): string[] {
  if (!Array.isArray(value) || value.length === 0) throw malformed("tokenizer.ggml.tokens must be an array", value);
  const bad = value.findIndex((token) => typeof token !== "string" || token === "");
  if (bad >= 0) throw malformed("each tokenizer.ggml.tokens must be a string that is not empty", value[bad]);
  if (new Set(value).size !== value.length) {
    const repeated = value.find((token, i) => value.indexOf(token) !== i);
    throw malformed("tokenizer.ggml.tokens must not repeat one", repeated);
  }
  return value;
}

function readNumbers(value: unknown, name: string, length: number): number[] {
  const list = ArrayBuffer.isView(value) && !(value instanceof DataView) ? Array.from(value as Float32Array) : value;
  if (!Array.isArray(list) || list.length !== length) {
    throw malformed(`tokenizer.ggml.${name} must be an array of ${length} numbers`, value);
  }
  const bad = list.findIndex((entry) => !Number.isFinite(entry));
  if (bad >= 0) throw malformed(`each tokenizer.ggml.${name} must be a finite number`, list[bad]);
  return list;
}

/** Byte-level BPE as the `tokenizer.json` that says the same. */
function readBytePairs(
  tokens: readonly string[],
  kinds: readonly number[],
  pre: string | null,
  merges: unknown,
): Vocabulary {
  const splits = SPLITS.get(pre);
  if (!splits) throw unsupported("pre-tokenizer", pre, [...SPLITS.keys()].map((name) => `"${name}"`).join(", "));
  if (!Array.isArray(merges)) throw malformed("tokenizer.ggml.merges must be an array", merges);
  const marked = (id: number): boolean => [UNKNOWN, CONTROL, USER_DEFINED].includes(kinds[id] ?? NORMAL);
  const added = tokens.keys().filter(marked).map((id): Json => (
    { id, content: tokens[id]!, special: kinds[id] !== USER_DEFINED, normalized: false }
  ));
  return readTokenizerJson({
    model: {
      type: "BPE",
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
      ignore_merges: splits === LLAMA3,
    },
    added_tokens: [...added],
    normalizer: null,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [...splits.map(splitAt), { type: "ByteLevel", add_prefix_space: false, use_regex: false }],
    },
    decoder: { type: "ByteLevel" },
  });
}
