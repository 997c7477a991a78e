/**
 * A loaded model: the public face of everything below.
 *
 * @module
 */
import { ExactAttention, ExactCache } from "../attention/exact_cache.ts";
import type { KvCache } from "../attention/kv_cache.ts";
import type { LlamaConfig } from "../core/model.ts";
import { llamaConfig } from "../files/llama_config.ts";
import { fingerprint, openModel } from "../files/model_files.ts";
import { Gpu } from "../gpu/gpu.ts";
import { encodeChat, type Message } from "../text/chat.ts";
import { createTokenizer, type Tokenizer } from "../text/tokenizer.ts";
import { Decoder } from "./decoder.ts";
import type { Generation } from "./generation.ts";
import { generateIn, type GenerateOptions, Session } from "./session.ts";
import { loadWeights } from "./weights.ts";

/** Bits of the cache: one number for keys and values, or one for each; 16 is exact. */
export type KvBits = 1 | 2 | 16;

/** How the key/value cache is kept. */
export interface KvOptions {
  /** Bits an element, or those of keys (`k`) and of values (`v`). */
  bits?: KvBits | { k: KvBits; v: KvBits };
}

/** Options of {@linkcode load}. */
export interface LoadOptions {
  /** How the cache is kept; exact by default. */
  kv?: KvOptions;
  /** Most tokens of a sequence; the model's own context by default, at most 8192. The cache is allocated for it. */
  maxContext?: number;
  /** A device of the caller's own. */
  device?: GPUDevice;
  /** Called as weights arrive, with bytes loaded and in all, and as kernels compile. */
  onProgress?: (progress: { phase: "weights" | "kernels"; loaded: number; total: number }) => void;
  /** Gives up loading. */
  signal?: AbortSignal;
}

/** What a session needs of its model. */
export interface Engine {
  readonly gpu: Gpu;
  readonly config: LlamaConfig;
  readonly tokenizer: Tokenizer;
  readonly decoder: Decoder;
  /** Ids of a prompt, chat messages through the model's own template. */
  encode(prompt: string | readonly Message[]): number[];
  /** Bytes of an f16 cache for `tokens`. */
  f16Bytes(tokens: number): number;
}

/** The cache's figures, as {@linkcode Llama.kv} gives them. */
export interface KvFigures {
  /** Bits an element of keys and of values: codes and scales. */
  readonly bits: { readonly k: number; readonly v: number };
  /** Bytes that one session's cache allocates on the GPU. */
  readonly bytes: number;
  /** Bytes of an f16 cache for as many tokens. */
  readonly f16Bytes: number;
  /** Bytes of codebooks on the GPU, shared by all sessions. */
  readonly codebookBytes: number;
  /** Most tokens of a sequence. */
  readonly maxContext: number;
}

const DEFAULT_CONTEXT = 8192;

/** What training and evaluation need of a model beside its public surface. */
export interface Inside extends Engine {
  readonly attention: ExactAttention;
}

let insideOf: (llama: Llama) => Inside;

/** The inside of a model: for the other modules of this floor and the one above it. */
export function inside(llama: Llama): Inside {
  return insideOf(llama);
}

/** A model on the GPU, ready to generate. Dispose it to free its memory. */
export class Llama implements Disposable {
  static {
    insideOf = (llama) => ({ ...llama.#engine, attention: llama.#attention });
  }

  readonly #owned: DisposableStack;
  readonly #engine: Engine;
  readonly #attention: ExactAttention;
  readonly #idle: Session[] = [];

  private constructor(
    owned: DisposableStack,
    engine: Engine,
    attention: ExactAttention,
    /** Name of the file or folder it came from. */
    readonly name: string,
    /** A hash of the weights: the same for the same model. */
    readonly fingerprint: string,
    readonly maxContext: number,
  ) {
    this.#owned = owned;
    this.#engine = engine;
    this.#attention = attention;
  }

  /** Reads and uploads a model. {@linkcode load} is the same. */
  static async load(source: string | URL, options: LoadOptions = {}): Promise<Llama> {
    const { kv: { bits = 16 } = {}, device, onProgress, signal } = options;
    const { k, v } = typeof bits === "object" ? bits : { k: bits, v: bits };
    if (k !== 16 || v !== 16) {
      throw new RangeError(`Cannot keep the cache at ${k} and ${v} bits as only 16 is supported yet`);
    }
    using files = await openModel(source);
    const config = llamaConfig(files), { maxContext = Math.min(config.context, DEFAULT_CONTEXT) } = options;
    if (!Number.isInteger(maxContext) || maxContext < 1 || maxContext > config.context) {
      throw new RangeError(
        `Cannot load with a context of ${maxContext} tokens as it must be a whole number from 1 to the model's ${config.context}`,
      );
    }
    const tokenizer = createTokenizer(files.tokenizer);
    using building = new DisposableStack();
    const gpu = building.use(await Gpu.create({ device }));
    const weights = building.use(await loadWeights(gpu, files, config, { onProgress, signal }));
    const decoder = building.use(await Decoder.create(gpu, config, weights, maxContext));
    const attention = building.use(
      await ExactAttention.create(gpu, config, weights.frequencies, maxContext, decoder.chunk),
    );
    await gpu.settle();
    onProgress?.({ phase: "kernels", loaded: 1, total: 1 });
    const engine: Engine = {
      gpu,
      config,
      tokenizer,
      decoder,
      encode: (prompt) => typeof prompt === "string" ? tokenizer.encode(prompt) : encodeChat(tokenizer, prompt),
      f16Bytes: (tokens) => 2 * 2 * tokens * config.layers * config.kvHeads * config.headDim,
    };
    return new Llama(building.move(), engine, attention, files.name, await fingerprint(files), maxContext);
  }

  /** The model's shape. */
  get config(): LlamaConfig {
    return this.#engine.config;
  }

  /** Text to ids and back. */
  get tokenizer(): Tokenizer {
    return this.#engine.tokenizer;
  }

  /** The adapter's name. */
  get device(): string {
    return this.#engine.gpu.description;
  }

  /**
   * Continues a string, or answers chat messages through the model's own template. Iterate the result for tokens as
   * they come; `await` its `done` for the whole.
   */
  generate(prompt: string | readonly Message[], options: GenerateOptions = {}): Generation {
    let session: Session | undefined;
    const generation = generateIn(() => session = this.#idle.pop() ?? this.session(), this.#engine, prompt, options);
    generation.whenOver(() => {
      if (!session) return;
      if (this.#idle.length === 0 && !this.#owned.disposed) this.#idle.push(session);
      else session[Symbol.dispose]();
    });
    return generation;
  }

  /** Starts a sequence whose cache the caller owns: it is reused from turn to turn, forked and rewound. */
  session(): Session {
    if (this.#owned.disposed) throw new TypeError("Cannot start a session as the model was disposed of");
    return new Session(this.#engine, this.#cache());
  }

  /** The cache's figures for one session. */
  get kv(): KvFigures {
    const bytes = this.#engine.f16Bytes(this.maxContext);
    return { bits: { k: 16, v: 16 }, bytes, f16Bytes: bytes, codebookBytes: 0, maxContext: this.maxContext };
  }

  #cache(): KvCache {
    return new ExactCache(this.#attention, this.#engine.config.layers, this.maxContext);
  }

  /** Frees the weights, the sessions that `generate` kept, and the device, unless it is the caller's. */
  [Symbol.dispose](): void {
    for (const session of this.#idle.splice(0)) session[Symbol.dispose]();
    this.#owned.dispose();
  }
}

/** Loads a model: a `.gguf` file, a Hugging Face folder, or a `file:` or `http(s):` URL of either. */
export function load(source: string | URL, options: LoadOptions = {}): Promise<Llama> {
  return Llama.load(source, options);
}
