/**
 * A session: one sequence's cache as an object that its caller owns.
 *
 * @module
 */
import type { KvCache } from "../attention/kv_cache.ts";
import { GpuMemoryError } from "../core/errors.ts";
import type { Message } from "../text/chat.ts";
import type { Commands } from "../gpu/commands.ts";
import { Staging } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { Generation, type TokenSource, type Usage } from "./generation.ts";
import type { Engine } from "./llama.ts";
import { refusedCache, refusedPrompt } from "./memory.ts";
import { Sampler, type SamplingOptions } from "./sampler.ts";
import { expectKind, openCache, writeCache } from "./saved.ts";

/** A text, chat messages for the model's own template, or the ids of tokens. */
export type Prompt = string | readonly Message[] | readonly number[];

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

/** The most steps submitted before their tokens are read, and about the milliseconds that they may take together. */
const MOST_AHEAD = 16, AHEAD_MS = 16;

let open: (session: Session, prompt: Prompt, options: GenerateOptions) => TokenSource;

/** A generation in the session that `take` gives as it begins. Throws for options that make no sense. */
export function generateIn(
  take: () => Session,
  { config, tokenizer }: Engine,
  prompt: Prompt,
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
  /** Bytes in use before the cache; `undefined` once the cache is known to be granted. */
  #used: number | undefined;
  #tokens: number[] = [];
  /** What it is doing that nothing else may be done beside. */
  #busy: string | undefined;
  #disposed = false;

  /** Made by `llama.session()`. */
  constructor(engine: Engine, cache: KvCache, tokens: readonly number[] = []) {
    this.#engine = engine;
    this.#cache = cache;
    this.#used = engine.gpu.bytes - cache.bytes;
    this.#tokens = [...tokens];
    this.#next = engine.gpu.alloc("next token", "u32", [1]);
  }

  /** Whether its cache is freed. */
  get disposed(): boolean {
    return this.#disposed;
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
   * Continues `prompt`, a string, chat messages or ids: the whole text, of which the part that this session already
   * holds is not computed again. After {@linkcode append}, that is `[...session.tokens, ...ids]`.
   */
  generate(prompt: Prompt, options: GenerateOptions = {}): Generation {
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

  /**
   * Writes tokens, codes and exact tokens to a safetensors file at `path`, in one step: an interruption leaves the old
   * file or the new one.
   */
  async save(path: string): Promise<void> {
    await this.#alone("save", () => writeCache(path, this.#engine.kind, this.#tokens, this.#cache));
  }

  /**
   * Takes up a saved cache in place of what the session holds, and goes on as the saved session would have.
   *
   * Throws `FileFormatError` for a file of another model, codebook, bits, window or sinks, or a damaged one, and
   * `RangeError` for more tokens than the context holds; the session is then as it was.
   */
  async restore(location: string | URL): Promise<void> {
    await this.#take("restore", location, false);
  }

  /**
   * Adds a saved cache after what the session holds, its positions re-based: a text read once, put behind any other. Its
   * keys and values are those of the text alone, not of the text after this one; a BOS that begins it is left out. In a
   * compressed cache, the exact tokens between the codes held and those that come are encoded.
   *
   * Throws as {@linkcode restore} does.
   */
  async append(location: string | URL): Promise<void> {
    await this.#take("append", location, true);
  }

  #take(action: string, location: string | URL, isMore: boolean): Promise<void> {
    const { kind, config: { bos } } = this.#engine, cache = this.#cache;
    return this.#alone(action, async () => {
      using saved = await openCache(location);
      expectKind(saved, kind, cache);
      if (!isMore) {
        this.#tokens = [];
        cache.rewind(0);
      }
      const skip = this.#tokens.length > 0 && bos !== null && saved.tokens[0] === bos ? 1 : 0, held = this.#tokens;
      try {
        await cache.append(saved.layout, saved.read, skip);
      } finally {
        this.#tokens = [...held, ...saved.tokens.slice(skip)].slice(0, cache.length);
      }
    });
  }

  /** Throws, and frees the cache, unless the GPU granted all of it. */
  async #expectGranted(): Promise<void> {
    const { gpu, kind } = this.#engine, used = this.#used;
    if (used === undefined) return;
    try {
      await gpu.settle();
    } catch (error) {
      this[Symbol.dispose]();
      throw error instanceof GpuMemoryError ? refusedCache(error, this.#cache, used, kind.bits) : error;
    }
    this.#used = undefined;
  }

  async #alone(action: string, body: () => Promise<void>): Promise<void> {
    this.#expectIdle(action);
    this.#busy = `${action.replace(/e$/, "")}ing`;
    try {
      await this.#expectGranted();
      await body();
    } finally {
      this.#busy = undefined;
    }
  }

  #open(prompt: Prompt, options: GenerateOptions): TokenSource {
    this.#expectIdle("generate");
    const ids = this.#engine.encode(prompt), { vocab } = this.#engine.config;
    const stray = ids.find((id) => !(Number.isInteger(id) && id >= 0 && id < vocab));
    if (stray !== undefined) {
      throw new RangeError(`Cannot continue token ${stray} as ids must be whole numbers below ${vocab}`);
    }
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
    this.#busy = "generating";
    const { gpu, decoder } = this.#engine, cache = this.#cache;
    try {
      await this.#expectGranted();
      using sampler = await Sampler.create(gpu, this.#engine.config.vocab, options);
      using staging = new Staging(gpu, 8 * MOST_AHEAD);
      const choose = (commands: Commands, step: number, record: number): void => {
        sampler.encode(commands, decoder.logits, this.#next, step);
        staging.copy(commands, sampler.result, 8 * record);
      };
      const start = performance.now(), kept = Math.min(commonPrefix(this.#tokens, ids), ids.length - 1);
      this.#cache.rewind(kept);
      this.#tokens.length = kept;
      timing.reused = kept;
      sampler.reset(ids);
      const { onPrefill: onProgress, signal, maxTokens = 256 } = options, fresh = ids.slice(kept);
      const { bytes } = gpu;
      try {
        await decoder.prefill(fresh, cache, { onProgress, signal, finish: (commands) => choose(commands, 0, 0) });
      } catch (error) {
        const { config, kind: { bits } } = this.#engine;
        throw error instanceof GpuMemoryError ? refusedPrompt(error, config, ids.length, { used: bytes, bits }) : error;
      } finally {
        this.#tokens = ids.slice(0, cache.length); // in segments, some may be through
      }
      const encode = async (step: number, record: number): Promise<Commands> => {
        await cache.begin(1);
        this.#expectLive("generate"); // commands over freed memory would abort the process
        const commands = gpu.commands("step");
        decoder.step(commands, this.#next, cache);
        choose(commands, step, record);
        commands.finish();
        return commands;
      };
      // Steps go to the GPU several at a time where they are short, since reading a token back waits for all of them;
      // the first of the next ones is encoded meanwhile. What is not asked for in the end is taken back, so a step that
      // encodes tokens for good comes alone, and after every token before it was asked for.
      let first = 0, pace = Infinity, submitted = start, records = 1;
      for (let step = 1; records > 0;) {
        const state = cache.state(), { slack } = cache, count = records;
        const most = Math.min(maxTokens + 1 - step, cache.capacity - cache.length, Math.max(1, slack), MOST_AHEAD);
        const ahead = Math.min(most, Math.max(1, Math.floor(AHEAD_MS / pace)));
        const next = ahead > 0 && slack > 0 ? await encode(step, 0) : undefined;
        const read = new DataView(
          await staging.read().catch((error) => {
            cache.restore(state);
            throw error;
          }),
        );
        this.#expectLive("generate");
        const now = performance.now();
        if (step === 1) {
          timing.prefill = (now - start) / 1e3;
          first = now;
        } else pace = Math.min(pace, (now - submitted) / count);
        timing.decode = (now - first) / 1e3;
        for (let i = 0; i < count; i++) {
          if (i === (slack > 0 ? 0 : count - 1)) {
            submitted = performance.now();
            next?.submit();
            for (let k = next ? 1 : 0; k < ahead; k++) (await encode(step + k, k)).submit();
            step += ahead;
            records = ahead;
          }
          const id = read.getUint32(8 * i, true), logprob = read.getFloat32(8 * i + 4, true);
          if (this.#tokens.length < cache.length) this.#tokens.push(id);
          yield { id, logprob };
        }
      }
    } finally {
      this.#busy = undefined;
      if (!this.#engine.disposed) await gpu.idle();
      if (!this.#disposed && cache.length > this.#tokens.length) cache.rewind(this.#tokens.length);
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
      throw new TypeError(`Cannot ${action} as the session is ${this.#busy}: wait for it, or fork the session`);
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
