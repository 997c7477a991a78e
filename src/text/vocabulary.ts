/**
 * What a tokenizer is once its file has been read, whichever the format, and how the readers complain.
 *
 * @module
 */
import { FileFormatError, UnsupportedModelError } from "../core/errors.ts";

/** Tokens and their meaning. Text is always bytes here: a token may hold a part of a character. */
export interface Vocabulary {
  /** The tokens by id, as the file writes them. */
  readonly tokens: readonly string[];
  /** Ids of the tokens that are marks and not text (`<s>`, `<|eot_id|>`). */
  readonly special: ReadonlySet<number>;
  /** Whether decoding drops one space at the start of a text, which encoding put there. */
  readonly stripsSpace: boolean;
  /** The ids of well-formed text, a fresh array, with no BOS added. */
  encode(text: string): number[];
  /** The UTF-8 bytes that a token of this vocabulary stands for. */
  bytes(id: number): Uint8Array;
}

/** What the model's files say about how texts begin and end. */
export interface TokenizerSettings {
  readonly bos: number | null;
  readonly addsBos: boolean;
  readonly eos: readonly number[];
  readonly chatTemplate: string | null;
}

/** A JSON object of unknown content. */
export type Json = Record<string, unknown>;

export function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The error for a tokenizer that breaks its own format. */
export function malformed(requirement: string, value: unknown): FileFormatError {
  return new FileFormatError(`Cannot read the tokenizer as ${requirement}: current value is ${brief(value)}`);
}

/** The error for a tokenizer that is in order but of a kind that this module does not run exactly. */
export function unsupported(what: string, value: unknown, supported: string): UnsupportedModelError {
  return new UnsupportedModelError(
    `Cannot use this tokenizer as its ${what} must be ${supported}: current value is ${brief(value)}`,
  );
}

function brief(value: unknown): string {
  if (typeof value === "number" || value === undefined) return String(value);
  if (ArrayBuffer.isView(value)) return value.constructor.name;
  // Cut before it is printed: a vocabulary is megabytes.
  if (Array.isArray(value)) return `[${value.slice(0, 4).map(brief).join(",")}${value.length > 4 ? ",…" : ""}]`;
  if (isObject(value)) return `an object with keys ${brief(Object.keys(value))}`;
  if (typeof value === "string") return JSON.stringify(value.length > 60 ? value.slice(0, 60) + "…" : value);
  return String(value);
}

/** Optional string: `null` where the file leaves it out. */
export function optionalString(value: unknown, name: string): string | null {
  if (value === undefined || value === null) return null;
  if (typeof value !== "string") throw malformed(`${name} must be a string`, value);
  return value;
}

/** Optional boolean: `null` where the file leaves it out. */
export function optionalBoolean(value: unknown, name: string): boolean | null {
  if (value === undefined || value === null) return null;
  if (typeof value !== "boolean") throw malformed(`${name} must be true or false`, value);
  return value;
}

/** Optional token id: `null` where the file leaves it out. */
export function optionalId(value: unknown, name: string, tokens: readonly string[]): number | null {
  if (value === undefined || value === null) return null;
  if (!Number.isInteger(value) || (value as number) < 0 || (value as number) >= tokens.length) {
    throw malformed(`${name} must be a token id below ${tokens.length}`, value);
  }
  return value as number;
}
