/**
 * Hugging Face's `tokenizer.json`: checked, and run by `@huggingface/tokenizers` for encoding.
 *
 * The library was written for every model there is; it takes some parts approximately and others silently not at all
 * (a `Metaspace` that splits, a `Split` of unknown behaviour, digits that are not ASCII). So each part is looked at
 * here first: passed on where the library does as Hugging Face's Rust code, rewritten into an equal part where it does
 * not, refused by name otherwise. Only byte-pair encoding occurs in LLaMA models; only it is taken.
 *
 * Decoding does not use the library: a token's bytes are worked out one token at a time, so that text can stream.
 *
 * @module
 */
import { Tokenizer as Encoder } from "@huggingface/tokenizers";
import { FileFormatError } from "../core/errors.ts";
import {
  isObject,
  type Json,
  malformed,
  optionalBoolean,
  optionalId,
  optionalString,
  type TokenizerSettings,
  unsupported,
  type Vocabulary,
} from "./vocabulary.ts";

/** GPT-2's rule for cutting text into words. */
export const GPT2_SPLIT = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

const utf8 = new TextEncoder();

/** A pre-tokenizer that cuts text around and at each match of `regex`. */
export function splitAt(regex: string): Json {
  return { type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false };
}

/**
 * The vocabulary of a parsed `tokenizer.json`.
 *
 * @throws {FileFormatError} Where the object breaks its format.
 * @throws {UnsupportedModelError} Where it holds a part that cannot be run exactly.
 */
export function readTokenizerJson(json: unknown): Vocabulary {
  if (!isObject(json)) throw malformed("tokenizer.json must be an object", json);
  const model = json.model;
  if (!isObject(model)) throw malformed("tokenizer.json must have a model", model);
  if (model.type !== "BPE") throw unsupported("model", model.type, '"BPE"');
  if (!isObject(model.vocab)) throw malformed("model.vocab must be an object", model.vocab);
  const vocab = new Map(Object.entries(model.vocab));
  const added = readAddedTokens(json.added_tokens ?? []);
  const tokens = orderTokens(vocab, added);
  const { bytes, stripsSpace } = readDecoder(json.decoder, tokens, new Set(added.map((token) => token.id)));

  const encoder = createEncoder({
    model: readModel(model, vocab),
    added_tokens: added,
    normalizer: sequence("normalizers", flatten(json.normalizer, "normalizer").map(checkNormalizer)),
    pre_tokenizer: sequence("pretokenizers", flatten(json.pre_tokenizer, "pre_tokenizer").flatMap(checkPreTokenizer)),
    post_processor: null, // BOS is ours to add
    decoder: null,
  });
  return {
    tokens,
    special: new Set(added.filter((token) => token.special).map((token) => token.id)),
    stripsSpace,
    encode: (text) => encoder.encode(text, { add_special_tokens: false }).ids,
    bytes,
  };
}

/**
 * BOS, EOS and the chat template of a Hugging Face directory.
 *
 * BOS is added where `add_bos_token` says so; where that is silent, where `tokenizer.json`'s own template does or,
 * lacking a template, where the tokenizer's class is LLaMA's, which does by default. A template's tokens after the
 * text are left out, as prompts are to be continued. Generation ends at each `eos_token_id` of
 * `generation_config.json` and at the tokenizer's `eos_token`.
 */
export function readHuggingFaceSettings(
  tokens: readonly string[],
  tokenizerJson: Json,
  tokenizerConfig: unknown = {},
  generationConfig: unknown = {},
  chatTemplate: unknown = undefined,
): TokenizerSettings {
  const config = tokenizerConfig ?? {};
  if (!isObject(config)) throw malformed("tokenizer_config.json must be an object", config);
  const generation = generationConfig ?? {};
  if (!isObject(generation)) throw malformed("generation_config.json must be an object", generation);

  const templateBos = readTemplateBos(tokenizerJson, tokens);
  const namedBos = namedToken(config.bos_token, "bos_token", tokens);
  const generationBos = optionalId(generation.bos_token_id, "bos_token_id", tokens);
  const bos = templateBos ?? namedBos ?? generationBos;
  const isLlamaClass = /^(Code)?LlamaTokenizer/.test(String(config.tokenizer_class));
  const addsByDefault = templateBos !== null || (isLlamaClass && (tokenizerJson.post_processor ?? null) === null);
  const addsBos = optionalBoolean(config.add_bos_token, "add_bos_token") ?? (addsByDefault && bos !== null);
  if (addsBos && bos === null) throw malformed("add_bos_token needs a bos_token", config.bos_token);

  const ends = generation.eos_token_id;
  const eos = (Array.isArray(ends) ? ends : [ends]).map((id) => optionalId(id, "eos_token_id", tokens));
  eos.unshift(namedToken(config.eos_token, "eos_token", tokens));
  const ownTemplate = readChatTemplate(config.chat_template);
  return {
    bos,
    addsBos,
    eos: [...new Set(eos)].filter((id) => id !== null),
    chatTemplate: optionalString(chatTemplate, "chat_template.jinja") ?? ownTemplate,
  };
}

interface AddedToken extends Json {
  id: number;
  content: string;
  special: boolean;
}

function readAddedTokens(list: unknown): AddedToken[] {
  if (!Array.isArray(list)) throw malformed("added_tokens must be an array", list);
  return list.map((token) => {
    if (!isObject(token) || typeof token.content !== "string" || token.content === "") {
      throw malformed("an added token must have content", token);
    }
    for (const flag of ["normalized", "lstrip", "rstrip"]) optionalBoolean(token[flag], `"${flag}" of an added token`);
    if (token.single_word) throw unsupported("added token", token.content, "matched anywhere (single_word false)");
    const special = optionalBoolean(token.special, '"special" of an added token') ?? false;
    return { ...token, id: token.id as number, content: token.content, special };
  });
}

/** Tokens by id. Ids must count from 0 without a gap: a gap would be a row of logits with no text. */
function orderTokens(vocab: Map<string, unknown>, added: readonly AddedToken[]): string[] {
  const ids = new Map(vocab);
  for (const { content, id } of added) {
    if ((ids.get(content) ?? id) !== id) throw malformed("an added token must have its id of the vocabulary", content);
    ids.set(content, id);
  }
  if (ids.size === 0) throw malformed("model.vocab must hold tokens", {});
  const tokens: string[] = new Array(ids.size);
  for (const [token, id] of ids) {
    if (
      !Number.isInteger(id) || (id as number) < 0 || (id as number) >= ids.size || tokens[id as number] !== undefined
    ) {
      throw malformed(`the ${ids.size} tokens must have the ids 0 to ${ids.size - 1}, each once`, id);
    }
    tokens[id as number] = token;
  }
  return tokens;
}

function readModel(model: Json, vocab: Map<string, unknown>): Json {
  for (const name of ["continuing_subword_prefix", "end_of_word_suffix"]) {
    if (optionalString(model[name], name)) throw unsupported(name, model[name], "absent");
  }
  if (model.dropout) throw unsupported("dropout", model.dropout, "absent");
  const unknown = optionalString(model.unk_token, "unk_token");
  if (unknown !== null && !vocab.has(unknown)) throw malformed("unk_token must be in the vocabulary", unknown);
  for (const flag of ["fuse_unk", "byte_fallback", "ignore_merges"]) optionalBoolean(model[flag], flag);
  if (!Array.isArray(model.merges)) throw malformed("model.merges must be an array", model.merges);
  const merges = model.merges.map((merge, i) => {
    const pair: unknown = typeof merge === "string" ? merge.split(" ") : merge;
    const [left, right] = Array.isArray(pair) && pair.length === 2 ? pair : [];
    // Names are strings in the map, so what is found in it is one.
    if (vocab.has(left) && vocab.has(right) && vocab.has(left + right)) return [left, right];
    throw malformed(`merge ${i} must join two tokens into a third`, merge);
  });
  return { ...model, merges };
}

/** A part of tokenizer.json as a list: a `Sequence` is its members, `null` none. */
function flatten(part: unknown, name: string, depth = 0): Json[] {
  if (depth === 0 && (part ?? null) === null) return [];
  if (!isObject(part) || typeof part.type !== "string" || depth > 4) {
    throw malformed(`${name} must be an object with a type, not deeply nested`, part);
  }
  if (part.type !== "Sequence") return [part];
  const list = part.normalizers ?? part.pretokenizers ?? part.processors ?? part.decoders;
  if (!Array.isArray(list)) throw malformed(`${name} must list the members of its Sequence`, list);
  return list.flatMap((member) => flatten(member, name, depth + 1));
}

function sequence(key: string, parts: Json[]): Json | null {
  return parts.length === 0 ? null : { type: "Sequence", [key]: parts };
}

function checkPattern(pattern: unknown, name: string): void {
  const { String: text, Regex: regex } = isObject(pattern) ? pattern : {};
  if (typeof (regex ?? text) !== "string" || (regex ?? text) === "") {
    throw malformed(`${name} must have a pattern, String or Regex`, pattern);
  }
}

function checkNormalizer(part: Json): Json {
  switch (part.type) {
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD":
      return part;
    case "Prepend":
      if (typeof part.prepend !== "string") throw malformed("Prepend must have a string", part.prepend);
      return part;
    case "Replace":
      checkPattern(part.pattern, "Replace");
      if (typeof part.content !== "string") throw malformed("Replace must have content", part.content);
      return part;
    default:
      throw unsupported("normalizer", part.type, "Prepend, Replace or a Unicode form");
  }
}

function checkPreTokenizer(part: Json): Json[] {
  switch (part.type) {
    case "Split": {
      checkPattern(part.pattern, "Split");
      const how = `${part.behavior}, ${part.invert ?? false}`;
      if (how !== "Isolated, false" && how !== "Removed, true") {
        throw unsupported("Split (behavior, invert)", how, '"Isolated, false" or "Removed, true"');
      }
      return [part];
    }
    case "ByteLevel": {
      const prefixes = optionalBoolean(part.add_prefix_space, "add_prefix_space") ?? true;
      const splits = optionalBoolean(part.use_regex, "use_regex") ?? true;
      if (prefixes) throw unsupported("add_prefix_space", part.add_prefix_space, "false");
      // Its built-in rule takes JavaScript's \s (U+FEFF in, U+0085 out); the rewritten Split takes Unicode's.
      return [...splits ? [splitAt(GPT2_SPLIT)] : [], { ...part, add_prefix_space: false, use_regex: false }];
    }
    case "Digits": // The library's \d is ASCII only.
      return [splitAt(optionalBoolean(part.individual_digits, "individual_digits") ? "\\p{N}" : "\\p{N}+")];
    case "Metaspace":
      if (part.split !== false) throw unsupported("Metaspace split", part.split, "false");
      for (const name of ["replacement", "prepend_scheme"]) optionalString(part[name], name);
      return [part];
    default:
      throw unsupported("pre_tokenizer", part.type, "Split, ByteLevel, Digits or Metaspace");
  }
}

function createEncoder(json: Json): Encoder {
  try {
    return new Encoder(json, {});
  } catch (error) { // what is left to go wrong is a regular expression
    throw new FileFormatError(`Cannot read the tokenizer as its parts must be valid: ${(error as Error).message}`);
  }
}

/**
 * Each token's bytes, for the two families of decoders: byte-level (every character of a token is a byte in GPT-2's
 * alphabet) and SentencePiece's (`▁` for a space, `<0x0A>` for a byte, one space dropped at the start).
 */
function readDecoder(
  decoder: unknown,
  tokens: readonly string[],
  added: ReadonlySet<number>,
): Pick<Vocabulary, "bytes" | "stripsSpace"> {
  const parts = flatten(decoder, "decoder");
  const kinds = parts.map((part) => part.type).join(", ");
  if (kinds === "ByteLevel") {
    return {
      stripsSpace: false,
      bytes: (id) => (added.has(id) ? null : byteLevelBytes(tokens[id]!)) ?? utf8.encode(tokens[id]!),
    };
  }
  if (!/^(Replace, )*(ByteFallback, )?Fuse(, Strip)?$/.test(kinds)) {
    throw unsupported("decoder", kinds || null, '"ByteLevel" or "Replace, ByteFallback, Fuse, Strip"');
  }
  const replacements = parts.filter((part) => part.type === "Replace").map(({ pattern, content }): [string, string] => {
    const from = isObject(pattern) ? pattern.String : undefined;
    if (typeof from !== "string" || from === "" || typeof content !== "string") {
      throw malformed("a Replace decoder must turn a string into a string", pattern);
    }
    return [from, content];
  });
  const strip = parts.find((part) => part.type === "Strip");
  if (strip && (strip.content !== " " || (strip.start ?? 0) !== 1 || (strip.stop ?? 0) !== 0)) {
    throw unsupported("Strip decoder", [strip.content, strip.start, strip.stop], "one space at the start");
  }
  const hasBytes = kinds.includes("ByteFallback");
  return {
    stripsSpace: strip !== undefined,
    bytes(id) {
      const token = tokens[id]!;
      const byte = hasBytes ? fallbackByte(token) : null;
      if (byte !== null) return Uint8Array.of(byte);
      return utf8.encode(replacements.reduce((text, [from, to]) => text.replaceAll(from, () => to), token));
    },
  };
}

/** The byte that a token like `<0x0A>` names, or `null`. */
export function fallbackByte(token: string): number | null {
  return /^<0x[0-9A-Fa-f]{2}>$/.test(token) ? parseInt(token.slice(3, 5), 16) : null;
}

/** GPT-2's alphabet: a printable Latin-1 character is its own byte, the 68 others follow from U+0100 on. */
const byteOfCharacter = new Map<number, number>();
for (let byte = 0, moved = 0; byte < 256; byte++) {
  const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  byteOfCharacter.set(printable ? byte : 256 + moved++, byte);
}

function byteLevelBytes(token: string): Uint8Array | null {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = byteOfCharacter.get(token.charCodeAt(i));
    if (byte === undefined) return null; // not in the alphabet: the token is plain text
    bytes[i] = byte;
  }
  return bytes;
}

/** The token that tokenizer.json's own template puts before a text, or `null`. */
function readTemplateBos(json: Json, tokens: readonly string[]): number | null {
  const leading: number[] = [];
  for (const part of flatten(json.post_processor, "post_processor")) {
    if (part.type === "ByteLevel") continue; // moves offsets only
    if (part.type !== "TemplateProcessing") {
      throw unsupported("post_processor", part.type, "ByteLevel or TemplateProcessing");
    }
    if (!Array.isArray(part.single)) throw malformed("a template must be an array", part.single);
    for (const item of part.single) {
      if (isObject(item) && isObject(item.Sequence)) break;
      const name = isObject(item) && isObject(item.SpecialToken) ? item.SpecialToken.id : undefined;
      const entry = isObject(part.special_tokens) ? part.special_tokens[String(name)] : undefined;
      if (!isObject(entry) || !Array.isArray(entry.ids) || entry.ids.length === 0) {
        throw malformed("a template's special tokens must have ids", item);
      }
      for (const id of entry.ids) leading.push(optionalId(id ?? -1, "a template's id", tokens)!);
    }
  }
  if (leading.length > 1) throw unsupported("template's start", leading, "at most one token");
  return leading[0] ?? null;
}

function namedToken(value: unknown, name: string, tokens: readonly string[]): number | null {
  const content = optionalString(isObject(value) ? value.content ?? -1 : value, name);
  if (content === null) return null;
  const id = tokens.indexOf(content);
  if (id < 0) throw malformed(`${name} must be in the vocabulary`, content);
  return id;
}

function readChatTemplate(value: unknown): string | null {
  if (!Array.isArray(value)) return optionalString(value, "chat_template");
  const named = value.find((entry) => isObject(entry) && entry.name === "default") ?? value[0];
  if (!isObject(named)) throw malformed("chat_template must be a string or a list of named templates", value);
  return optionalString(named.template ?? -1, "chat_template");
}
