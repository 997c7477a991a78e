/**
 * JSON objects from files that may be hostile.
 *
 * @module
 */
import { FileFormatError } from "../core/errors.ts";

/** Most bytes of a JSON text: LLaMA 3's `tokenizer.json` has 17 MB. Parsing takes up to ten times as much memory. */
export const MAX_JSON = 48 * 2 ** 20;
/** Most objects and arrays, each of which takes 60 bytes for as little as one of text. LLaMA 3's merges are 280,000. */
const MAX_PARTS = 2 ** 20;

/** Whether a value of JSON is an object, and no array. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Parses the object that `what` holds, such as "config.json". Throws `FileFormatError` where it holds none. */
export function parseObject(bytes: Uint8Array, what: string): Record<string, unknown> {
  let parts = 0, value: unknown;
  for (let i = 0; i < bytes.length; i++) if (bytes[i] === 0x5b || bytes[i] === 0x7b) parts++;
  if (parts > MAX_PARTS) {
    throw new FileFormatError(
      `Cannot read ${what} as it must have at most ${MAX_PARTS} objects and arrays: it has ${parts}`,
    );
  }
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new FileFormatError(`Cannot read ${what} as it is not JSON: get an undamaged copy`);
  }
  if (isObject(value)) return value;
  throw new FileFormatError(`Cannot read ${what} as it must hold an object: get an undamaged copy`);
}
