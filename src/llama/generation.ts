/**
 * One generation: a stream of tokens, and what it came to.
 *
 * @module
 */
import { StopMatcher, TextStream } from "../text/stream.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/**
 * One generated token. Texts of all tokens joined are the generated text; a token that ends within a character, or in
 * what may be the beginning of a stop string, is handed out together with the token that settles it.
 */
export interface GeneratedToken {
  /** The token's id. */
  readonly id: number;
  /** The text that it completes, often a word. */
  readonly text: string;
  /** Natural logarithm of the token's probability, where asked for. */
  readonly logprob?: number;
}

/** Why a generation ended: the end-of-text token, `maxTokens`, a stop string or token, or an abort. */
export type StopReason = "eos" | "length" | "stop" | "abort";

/** What a generation used. */
export interface Usage {
  /** Tokens of the prompt. */
  readonly promptTokens: number;
  /** Tokens of the prompt whose keys and values the session already held. */
  readonly reusedTokens: number;
  /** Tokens generated. */
  readonly generatedTokens: number;
  /** Tokens of the prompt computed, a second. */
  readonly prefillTokensPerSecond: number;
  /** Tokens generated after the first, a second. */
  readonly decodeTokensPerSecond: number;
  /** Bytes of the cache as allocated. */
  readonly kvBytes: number;
  /** Bytes of an f16 cache for the tokens of prompt and text. */
  readonly kvF16Bytes: number;
}

const NO_USAGE: Usage = {
  promptTokens: 0,
  reusedTokens: 0,
  generatedTokens: 0,
  prefillTokensPerSecond: 0,
  decodeTokensPerSecond: 0,
  kvBytes: 0,
  kvF16Bytes: 0,
};

/** What {@linkcode Generation.done} resolves to. */
export interface GenerationResult {
  /** The whole generated text. */
  readonly text: string;
  /** Its ids. */
  readonly tokens: readonly number[];
  /** Ids of the prompt. */
  readonly promptTokens: readonly number[];
  /** Why it ended. */
  readonly stopReason: StopReason;
  /** What it used. */
  readonly usage: Usage;
}

/** Where a generation's tokens come from: the session. Stops when its consumer returns. */
export interface TokenSource {
  readonly promptTokens: readonly number[];
  /** Yields sampled tokens, without end. */
  tokens(): AsyncGenerator<{ id: number; logprob: number }, void>;
  usage(generated: number): Usage;
}

/** When to end, by what. */
export interface StopOptions {
  readonly maxTokens: number;
  /** Ids that end the text; they are not part of it. */
  readonly eos: ReadonlySet<number>;
  readonly stopIds: ReadonlySet<number>;
  /** Strings that end the text; they are not part of it, though their tokens are among the tokens. */
  readonly stopStrings: readonly string[];
  readonly logprobs: boolean;
  readonly signal?: AbortSignal;
}

/**
 * A generation under way: iterate it for tokens as they come, await {@linkcode done} for the whole. Breaking out of the
 * loop and aborting the signal both end it and keep what was made. It runs as it is read; `done` alone runs it too.
 */
export class Generation implements AsyncIterable<GeneratedToken> {
  readonly #open: () => TokenSource;
  readonly #tokenizer: Tokenizer;
  readonly #stop: StopOptions;
  readonly #matcher: StopMatcher;
  readonly #done = Promise.withResolvers<GenerationResult>();
  #started = false;

  /** Made by `generate`. `open` is called once, as it begins. */
  constructor(open: () => TokenSource, tokenizer: Tokenizer, stop: StopOptions) {
    this.#open = open;
    this.#tokenizer = tokenizer;
    this.#stop = stop;
    this.#matcher = new StopMatcher(stop.stopStrings);
    this.#done.promise.catch(() => {}); // an error is the loop's to tell, too
  }

  /** The whole text, its tokens, why it ended, and what it used. */
  get done(): Promise<GenerationResult> {
    if (!this.#started) this.#drain();
    return this.#done.promise;
  }

  /** Calls `callback` when the generation is over, whichever way it went, before those who wait for that go on. */
  whenOver(callback: () => void): void {
    this.#done.promise.then(callback, callback);
  }

  async #drain(): Promise<void> {
    try {
      for await (const _ of this);
    } catch { /* `done` tells it */ }
  }

  /** Tokens as they come. A generation can be iterated once. */
  async *[Symbol.asyncIterator](): AsyncGenerator<GeneratedToken, void> {
    if (this.#started) throw new TypeError("Cannot iterate a generation twice: call generate again");
    this.#started = true;
    const { maxTokens, eos, stopIds, logprobs, signal } = this.#stop;
    const stream = new TextStream(this.#tokenizer, { continues: true }), matcher = this.#matcher;
    const ids: number[] = [], held: GeneratedToken[] = [];
    let text = "", fresh = "", stopReason: StopReason = "abort", source: TokenSource | undefined;
    /** The held tokens, with their text on the last. */
    const release = (): GeneratedToken[] => {
      const out = held.splice(0), last = out.pop();
      if (last) out.push({ ...last, text: fresh });
      text += fresh;
      fresh = "";
      return out;
    };
    const releaseAll = (): GeneratedToken[] => {
      fresh += matcher.push(stream.flush()).text + matcher.flush();
      return release();
    };
    try {
      if (signal?.aborted) return;
      source = this.#open();
      const sampled = source.tokens();
      try {
        while (ids.length < maxTokens) {
          const next = await sampled.next();
          if (signal?.aborted) return;
          if (next.done) break; // the context is full
          const { id, logprob } = next.value;
          if (eos.has(id) || stopIds.has(id)) {
            stopReason = eos.has(id) ? "eos" : "stop";
            break;
          }
          ids.push(id);
          held.push({ id, text: "", ...(logprobs && { logprob }) });
          const shown = matcher.push(stream.push(id));
          fresh += shown.text;
          if (shown.stopped) {
            stopReason = "stop";
            break;
          }
          if (fresh !== "" && !stream.holds && !matcher.holds) yield* release();
        }
        if (stopReason === "abort") stopReason = "length";
        yield* releaseAll();
      } finally {
        await sampled.return();
      }
    } catch (error) {
      if (!signal?.aborted) {
        this.#done.reject(error);
        throw error;
      }
    } finally {
      releaseAll(); // what an abort left
      const promptTokens = source?.promptTokens ?? [], usage = source?.usage(ids.length) ?? NO_USAGE;
      this.#done.resolve({ text, tokens: ids, promptTokens, stopReason, usage });
    }
  }
}
