/**
 * A session: one sequence's cache as an object that its caller owns.
 *
 * @module
 */
import type { KvCache } from "../attention/kv_cache.ts";
import type { Message } from "../text/chat.ts";
import type { Commands } from "../gpu/commands.ts";
import { Staging } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { Generation, type TokenSource, type Usage } from "./generation.ts";
import type { Engine } from "./llama.ts";
import { Sampler, type SamplingOptions } from "./sampler.ts";

/** Options of `generate`. */
export interface GenerateOptions extends SamplingOptions {
  /** Most tokens to generate; 256 by default. */
  maxTokens?: number;
  /** Strings and token ids that end the text. A string is not part of the text. */
  stop?: string | number | readonly (string | number)[];
  /** Goes on past the end-of-text token. */
  ignoreEos?: boolean;
  /** Whether tokens carry their log-probability. */
  logprobs?: boolean;
  /** Called as the prompt is read, with layer-tokens done and in all. */
  onPrefill?: (done: number, total: number) => void;
  /** Ends the generation and keeps what was made. */
  signal?: AbortSignal;
}

let open: (session: Session, prompt: string | readonly Message[], options: GenerateOptions) => TokenSource;

/** A generation in the session that `take` gives as it begins. Throws for options that make no sense. */
export function generateIn(
  take: () => Session,
  { config, tokenizer }: Engine,
  prompt: string | readonly Message[],
  options: GenerateOptions,
): Generation {
  const { maxTokens = 256, stop = [], ignoreEos = false, logprobs = false, signal } = options;
  if (!Number.isInteger(maxTokens) || maxTokens < 0) {
    throw new RangeError(`Cannot generate as maxTokens must be a whole number: current value is ${maxTokens}`);
  }
  Sampler.check(options, config.vocab);
  const stops: readonly (string | number)[] = Array.isArray(stop) ? stop : [stop];
  return new Generation(() => open(take(), prompt, options), tokenizer, {
    maxTokens,
    eos: new Set(ignoreEos ? [] : tokenizer.eos),
    stopIds: new Set(stops.filter((s) => typeof s === "number")),
    stopStrings: stops.filter((s) => typeof s !== "number"),
    logprobs,
    signal,
  });
}

/** One sequence: its tokens and the cache that holds them. Dispose it to free the cache. */
export class Session implements Disposable {
  static {
    open = (session, prompt, options) => session.#open(prompt, options); // for generateIn and nobody else
  }

  readonly #engine: Engine;
  readonly #cache: KvCache;
  readonly #next: Tensor;
  #tokens: number[] = [];
  #busy = false;
  #disposed = false;

  /** Made by `llama.session()`. */
  constructor(engine: Engine, cache: KvCache, tokens: readonly number[] = []) {
    this.#engine = engine;
    this.#cache = cache;
    this.#tokens = [...tokens];
    this.#next = engine.gpu.alloc("next token", "u32", [1]);
  }

  /** Ids of the tokens that the cache holds. */
  get tokens(): readonly number[] {
    return this.#tokens;
  }

  /** Bytes that the cache has allocated on the GPU. */
  get bytes(): number {
    return this.#cache.bytes;
  }

  /**
   * Continues `prompt`, a string or chat messages: the whole text, of which the part that this session already holds
   * is not computed again.
   */
  generate(prompt: string | readonly Message[], options: GenerateOptions = {}): Generation {
    return generateIn(() => this, this.#engine, prompt, options);
  }

  /** Forgets all but the first `length` tokens. */
  rewind(length: number): void {
    if (!Number.isInteger(length) || length < 0 || length > this.#tokens.length) {
      throw new RangeError(`Cannot rewind to ${length} tokens as the session holds ${this.#tokens.length}`);
    }
    this.#expectIdle("rewind");
    this.#cache.rewind(length);
    this.#tokens.length = length;
  }

  /** A second session that starts where this one stands, with memory of its own. */
  fork(): Session {
    this.#expectIdle("fork");
    return new Session(this.#engine, this.#cache.fork(), this.#tokens);
  }

  #open(prompt: string | readonly Message[], options: GenerateOptions): TokenSource {
    this.#expectIdle("generate");
    const ids = this.#engine.encode(prompt);
    if (ids.length === 0) {
      throw new RangeError("Cannot continue an empty prompt: this model has no BOS token to start from");
    }
    if (ids.length > this.#cache.capacity) {
      throw new RangeError(
        `Cannot read a prompt of ${ids.length} tokens as the context holds ${this.#cache.capacity}: load with a larger maxContext`,
      );
    }
    const timing = { prefill: 0, decode: 0, reused: 0 };
    return {
      promptTokens: ids,
      tokens: () => this.#run(ids, options, timing),
      usage: (generated) => this.#usage(ids.length, generated, timing),
    };
  }

  async *#run(
    ids: readonly number[],
    options: GenerateOptions,
    timing: Timing,
  ): AsyncGenerator<{ id: number; logprob: number }, void> {
    this.#busy = true;
    const { gpu, decoder } = this.#engine, cache = this.#cache;
    try {
      using sampler = await Sampler.create(gpu, this.#engine.config.vocab, options);
      using staging = new Staging(gpu, 8);
      const choose = (commands: Commands, step: number): void =>
        sampler.encode(commands, decoder.logits, this.#next, step);
      const start = performance.now(), kept = Math.min(commonPrefix(this.#tokens, ids), ids.length - 1);
      this.#cache.rewind(kept);
      this.#tokens.length = kept;
      timing.reused = kept;
      sampler.reset(ids);
      const { onPrefill: onProgress, signal } = options, fresh = ids.slice(kept);
      const finish = (commands: Commands): void => {
        choose(commands, 0);
        staging.copy(commands, sampler.result);
      };
      await decoder.prefill(fresh, cache, { onProgress, signal, finish });
      for (const id of fresh) this.#tokens.push(id);
      let first = 0;
      for (let step = 1;; step++) {
        // The next step is encoded while the GPU works on this one.
        const state = cache.state(), room = cache.length < cache.capacity;
        const commands = gpu.commands("step");
        if (room) {
          await cache.begin(1);
          decoder.step(commands, this.#next, cache);
          choose(commands, step);
        }
        const record = new DataView(
          await staging.read().catch((error) => {
            cache.restore(state);
            throw error;
          }),
        );
        this.#expectLive("generate");
        const id = record.getUint32(0, true), logprob = record.getFloat32(4, true), now = performance.now();
        if (step === 1) {
          timing.prefill = (now - start) / 1e3;
          first = now;
        }
        timing.decode = (now - first) / 1e3;
        if (room) {
          staging.copy(commands, sampler.result);
          commands.submit();
          this.#tokens.push(id);
        }
        yield { id, logprob };
        if (!room) return;
      }
    } finally {
      this.#busy = false;
      if (!this.#engine.disposed) await gpu.idle();
    }
  }

  #usage(prompt: number, generated: number, { prefill, decode, reused }: Timing): Usage {
    return {
      promptTokens: prompt,
      reusedTokens: reused,
      generatedTokens: generated,
      prefillTokensPerSecond: prefill > 0 ? (prompt - reused) / prefill : 0,
      decodeTokensPerSecond: decode > 0 ? (generated - 1) / decode : 0,
      kvBytes: this.#cache.bytes,
      kvF16Bytes: this.#engine.f16Bytes(prompt + generated),
    };
  }

  #expectLive(action: string): void {
    const what = this.#disposed ? "session" : this.#engine.disposed ? "model" : undefined;
    if (what) throw new TypeError(`Cannot ${action} as the ${what} was disposed of`);
  }

  #expectIdle(action: string): void {
    this.#expectLive(action);
    if (this.#busy) {
      throw new TypeError(`Cannot ${action} as the session is generating: wait for it, or fork the session`);
    }
  }

  /** Frees the cache. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#next[Symbol.dispose]();
    this.#cache[Symbol.dispose]();
  }
}

/** Seconds of a run's parts, and the tokens that it need not compute. */
interface Timing {
  prefill: number;
  decode: number;
  reused: number;
}

function commonPrefix(a: readonly number[], b: readonly number[]): number {
  let n = 0;
  while (n < a.length && n < b.length && a[n] === b[n]) n++;
  return n;
}
