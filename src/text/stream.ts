/**
 * Text as it is generated, one token at a time.
 *
 * @module
 */
import type { Tokenizer } from "./tokenizer.ts";

/**
 * Turns ids into text as they come, and never shows a part of a character: bytes of an unfinished one are held back
 * until the rest arrives. The parts joined are exactly `tokenizer.decode(ids)`. The work for a token does not depend
 * on how many came before.
 */
export class TextStream {
  readonly #tokenizer: Tokenizer;
  readonly #skipSpecial: boolean;
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #dropsSpace: boolean;
  /** Continuation bytes that the last character still lacks. */
  #missing = 0;

  /**
   * @param tokenizer The tokenizer of the ids to come.
   * @param options `skipSpecial`: show no special tokens (default `false`). `continues`: the text continues another,
   * a prompt, so that a space at its start is one (default `false`: it stands alone, as in `decode`).
   */
  constructor(tokenizer: Tokenizer, options: { skipSpecial?: boolean; continues?: boolean } = {}) {
    this.#tokenizer = tokenizer;
    this.#skipSpecial = options.skipSpecial ?? false;
    this.#dropsSpace = tokenizer.stripsSpace && !options.continues;
  }

  /** Takes the next id and returns the text that it completes, often empty in the middle of a character. */
  push(id: number): string {
    if (this.#skipSpecial && this.#tokenizer.isSpecial(id)) return "";
    let bytes = this.#tokenizer.bytes(id);
    if (bytes.length === 0) return "";
    if (this.#dropsSpace && bytes[0] === 0x20) bytes = bytes.subarray(1);
    this.#dropsSpace = false;
    for (const byte of bytes) {
      if (byte >= 0xc2 && byte <= 0xf4) this.#missing = byte >= 0xf0 ? 3 : byte >= 0xe0 ? 2 : 1;
      else this.#missing = (byte & 0xc0) === 0x80 ? Math.max(0, this.#missing - 1) : 0;
    }
    return this.#decoder.decode(bytes, { stream: true });
  }

  /** Whether an unfinished character is held back. */
  get holds(): boolean {
    return this.#missing > 0;
  }

  /** Ends the text: U+FFFD where a character was left unfinished, else nothing. */
  flush(): string {
    this.#missing = 0;
    return this.#decoder.decode();
  }
}

/**
 * Finds stop strings in text that comes in pieces. What might be the beginning of one is held back. Where pieces are
 * cut makes no difference: the stop string that is complete first counts, and of those the longest.
 */
export class StopMatcher {
  readonly #stops: readonly string[];
  #held = "";
  #stopped = false;

  /**
   * @param stops The strings to stop at; with none, all text passes.
   * @throws {TypeError} If one is not a string or is empty.
   */
  constructor(stops: readonly string[]) {
    const bad = stops.findIndex((stop) => typeof stop !== "string" || stop === "");
    if (bad >= 0) {
      throw new TypeError(
        `Cannot stop at a string as it must hold a character or more: current value is ${JSON.stringify(stops[bad])}`,
      );
    }
    this.#stops = stops;
  }

  /** Takes more text; returns what is safe to show, and whether a stop string (never shown) was found. */
  push(text: string): { text: string; stopped: boolean } {
    if (this.#stopped) return { text: "", stopped: true };
    const all = this.#held + text;
    let start = -1, end = Infinity;
    for (const stop of this.#stops) {
      const at = all.indexOf(stop);
      if (at < 0 || at + stop.length > end || (at + stop.length === end && at > start)) continue;
      start = at;
      end = at + stop.length;
    }
    this.#stopped = start >= 0;
    const cut = this.#stopped ? start : all.length - this.#heldLength(all);
    this.#held = this.#stopped ? "" : all.slice(cut);
    return { text: all.slice(0, cut), stopped: this.#stopped };
  }

  /** Whether text is held back. */
  get holds(): boolean {
    return this.#held !== "";
  }

  /** Ends the text: what was held back and did not become a stop string. */
  flush(): string {
    const held = this.#held;
    this.#held = "";
    return held;
  }

  /** Length of the longest end of `text` that is the beginning of a stop string. */
  #heldLength(text: string): number {
    const longest = Math.max(0, ...this.#stops.map((stop) => stop.length - 1));
    for (let length = Math.min(longest, text.length); length > 0; length--) {
      const tail = text.slice(text.length - length);
      if (this.#stops.some((stop) => stop.startsWith(tail))) return length;
    }
    return 0;
  }
}
