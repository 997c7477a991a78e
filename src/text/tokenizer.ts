/**
 * Text to token ids and back, from a Hugging Face `tokenizer.json` or from a GGUF's own vocabulary.
 *
 * @module
 */
import { readGgufVocabulary } from "./gguf_vocabulary.ts";
import { readHuggingFaceSettings, readTokenizerJson } from "./tokenizer_json.ts";
import type { Json, TokenizerSettings, Vocabulary } from "./vocabulary.ts";

/** A tokenizer as its file holds it: parsed JSON of a Hugging Face directory, or the metadata of a GGUF. */
export type RawTokenizer =
  | {
    kind: "hf";
    /** `tokenizer.json`. */
    tokenizerJson: object;
    /** `tokenizer_config.json`: BOS, EOS, chat template. */
    tokenizerConfig?: object;
    /** `generation_config.json`: `eos_token_id`, one or many. */
    generationConfig?: object;
    /** `chat_template.jinja`; it goes before the one in `tokenizer_config.json`. */
    chatTemplate?: string;
  }
  | { kind: "gguf"; metadata: ReadonlyMap<string, unknown> };

/** Text to token ids and back. */
export interface Tokenizer {
  /** Number of tokens. A model may have more rows of logits than this; their ids stand for no text. */
  readonly vocabSize: number;
  /** The id that begins a text, or `null`. */
  readonly bos: number | null;
  /** Whether {@linkcode Tokenizer.encode} puts BOS in front unless told otherwise. */
  readonly addsBos: boolean;
  /** The ids that end a text or a turn: none, one or many, the tokenizer's own EOS first. */
  readonly eos: readonly number[];
  /** The model's chat template in Jinja, or `null`. */
  readonly chatTemplate: string | null;
  /** Whether decoding drops one space at the start of a text (SentencePiece put it there). */
  readonly stripsSpace: boolean;

  /**
   * The ids of a text. Special tokens written out in it (`<|eot_id|>`) become their ids.
   *
   * @param text The text. A lone surrogate counts as U+FFFD.
   * @param options `bos`: `true` puts BOS in front, `false` does not; by default the model's settings decide.
   * @throws {RangeError} If BOS is asked for and the model has none.
   */
  encode(text: string, options?: { bos?: boolean }): number[];

  /**
   * The text of ids. No spaces are "cleaned up"; bytes that are not UTF-8 become U+FFFD.
   *
   * @param ids Token ids.
   * @param options `skipSpecial`: leave out special tokens (default `false`).
   * @throws {RangeError} If an id is not a whole number of 0 or more.
   */
  decode(ids: Iterable<number>, options?: { skipSpecial?: boolean }): string;

  /** The token as its file writes it (`Ġthe`, `▁the`, `<s>`); empty past the vocabulary. */
  token(id: number): string;
  /** The UTF-8 bytes that a token stands for, perhaps a part of a character; none past the vocabulary. */
  bytes(id: number): Uint8Array;
  /** Whether a token is a mark and not text. */
  isSpecial(id: number): boolean;
}

/**
 * Creates a tokenizer.
 *
 * @param raw What the model's files hold.
 * @throws {FileFormatError} If they contradict themselves or their format.
 * @throws {UnsupportedModelError} If the tokenizer is of a kind that cannot be run exactly.
 */
export function createTokenizer(raw: RawTokenizer): Tokenizer {
  if (raw.kind === "gguf") return new VocabularyTokenizer(...readGgufVocabulary(raw.metadata));
  const vocabulary = readTokenizerJson(raw.tokenizerJson);
  const settings = readHuggingFaceSettings(
    vocabulary.tokens,
    raw.tokenizerJson as Json,
    raw.tokenizerConfig,
    raw.generationConfig,
    raw.chatTemplate,
  );
  return new VocabularyTokenizer(vocabulary, settings);
}

const NO_BYTES = new Uint8Array(0);

class VocabularyTokenizer implements Tokenizer {
  readonly bos: number | null;
  readonly addsBos: boolean;
  readonly eos: readonly number[];
  readonly chatTemplate: string | null;
  readonly #vocabulary: Vocabulary;

  constructor(vocabulary: Vocabulary, settings: TokenizerSettings) {
    this.#vocabulary = vocabulary;
    this.bos = settings.bos;
    this.addsBos = settings.addsBos;
    this.eos = settings.eos;
    this.chatTemplate = settings.chatTemplate;
  }

  get vocabSize(): number {
    return this.#vocabulary.tokens.length;
  }

  get stripsSpace(): boolean {
    return this.#vocabulary.stripsSpace;
  }

  encode(text: string, options: { bos?: boolean } = {}): number[] {
    if (typeof text !== "string") {
      throw new TypeError(`Cannot encode text as it must be a string: current value is of type ${typeof text}`);
    }
    const ids = this.#vocabulary.encode(text.toWellFormed());
    if (!(options.bos ?? this.addsBos)) return ids;
    if (this.bos === null) {
      throw new RangeError("Cannot encode with BOS as the tokenizer must have such a token: it has none");
    }
    return [this.bos, ...ids];
  }

  decode(ids: Iterable<number>, options: { skipSpecial?: boolean } = {}): string {
    const parts: Uint8Array[] = [];
    for (const id of ids) if (!(options.skipSpecial && this.isSpecial(id))) parts.push(this.bytes(id));
    const all = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
    parts.reduce((at, part) => (all.set(part, at), at + part.length), 0);
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(all); // true: keep U+FEFF
    return this.stripsSpace && text.startsWith(" ") ? text.slice(1) : text;
  }

  token(id: number): string {
    return this.#vocabulary.tokens[id] ?? "";
  }

  bytes(id: number): Uint8Array {
    if (!Number.isInteger(id) || id < 0) {
      throw new RangeError(
        `Cannot decode a token as its id must be a whole number of 0 or more: current value is ${id}`,
      );
    }
    return id < this.vocabSize ? this.#vocabulary.bytes(id) : NO_BYTES;
  }

  isSpecial(id: number): boolean {
    return this.#vocabulary.special.has(id);
  }
}
