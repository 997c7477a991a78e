/**
 * A loaded model: the public face of everything below.
 *
 * @module
 */
import { CodeCache } from "../attention/code_cache.ts";
import { ExactAttention, ExactCache } from "../attention/exact_cache.ts";
import type { KvCache } from "../attention/kv_cache.ts";
import { bitsAll, bitsEffective } from "../core/bits.ts";
import { GpuMemoryError } from "../core/errors.ts";
import type { LlamaConfig } from "../core/model.ts";
import { llamaConfig } from "../files/llama_config.ts";
import { fingerprint, openModel } from "../files/model_files.ts";
import { Gpu } from "../gpu/gpu.ts";
import { encodeChat, type Message } from "../text/chat.ts";
import { createTokenizer, type Tokenizer } from "../text/tokenizer.ts";
import type { Codebook } from "../codebook/file.ts";
import { compress, type Compressed } from "./compressed.ts";
import { Decoder } from "./decoder.ts";
import type { Generation } from "./generation.ts";
import { expectBinds, refusedWeights } from "./memory.ts";
import type { CacheKind } from "./saved.ts";
import { generateIn, type GenerateOptions, type Prompt, Session } from "./session.ts";
import { loadWeights } from "./weights.ts";

/** Bits of the cache: one number for keys and values, or one for each; 16 is exact. */
export type KvBits = 1 | 2 | 16;

/** How the key/value cache is kept. */
export interface KvOptions {
  /** Bits an element, or those of keys (`k`) and of values (`v`). */
  bits?: KvBits | { k: KvBits; v: KvBits };
  /** For 1 and 2 bits: a codebook, or the path or URL of one; by default `codebooks.safetensors` beside the model. */
  codebook?: Codebook | string | URL;
  /** Newest tokens that a compressed cache keeps exact, at least; 64 by default, in steps of 32. */
  window?: number;
  /** First tokens that a compressed cache keeps exact; 4 by default. */
  sinks?: number;
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
  /** What a saved cache must agree with. */
  readonly kind: CacheKind;
  /** Whether all of it is gone. */
  readonly disposed: boolean;
  /** Ids of a prompt, of chat messages through the model's own template. */
  encode(prompt: Prompt): number[];
  /** Bytes of an f16 cache for `tokens`. */
  f16Bytes(tokens: number): number;
}

/** The cache's figures, as {@linkcode Llama.kv} gives them. */
export interface KvFigures {
  /** Bits an element of keys and of values: codes and scales. */
  readonly bits: { readonly k: number; readonly v: number };
  /** Bits an element of both: codes and scales. */
  readonly bitsCode: number;
  /** Bits an element of a sequence of so many tokens, with those that are exact. */
  bitsEffective(tokens: number): number;
  /** And with the codebooks, as if that sequence were all there is. */
  bitsAll(tokens: number): number;
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
  /** What its sessions' caches are made by, where they are compressed. */
  readonly compressed: Compressed | undefined;
}

let insideOf: (llama: Llama) => Inside;

/** The inside of a model: for the other modules of this floor and the one above it. */
export function inside(llama: Llama): Inside {
  return insideOf(llama);
}

/** A model on the GPU, ready to generate. Dispose it to free its memory. */
export class Llama implements Disposable {
  static {
    insideOf = (llama) => ({ ...llama.#engine, attention: llama.#attention, compressed: llama.#compressed });
  }

  readonly #owned: DisposableStack;
  readonly #engine: Engine;
  readonly #attention: ExactAttention;
  readonly #compressed: Compressed | undefined;
  readonly #idle: Session[] = [];

  private constructor(
    owned: DisposableStack,
    engine: Engine,
    attention: ExactAttention,
    compressed: Compressed | undefined,
    /** Name of the file or folder it came from. */
    readonly name: string,
    /** A hash of the weights: the same for the same model. */
    readonly fingerprint: string,
    readonly maxContext: number,
  ) {
    this.#owned = owned;
    this.#engine = engine;
    this.#attention = attention;
    this.#compressed = compressed;
  }

  /** Reads and uploads a model. {@linkcode load} is the same. */
  static async load(source: string | URL, options: LoadOptions = {}): Promise<Llama> {
    const { kv = {}, device, onProgress, signal } = options, bits = bitsOf(kv);
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
    expectBinds(config, maxContext, gpu.maxBytes);
    const weights = building.use(
      await loadWeights(gpu, files, config, { onProgress, signal }).catch((error) => {
        const bytes = [...files.tensors.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
        throw error instanceof GpuMemoryError ? refusedWeights(error, files.name, bytes) : error;
      }),
    );
    const decoder = building.use(await Decoder.create(gpu, config, weights, maxContext));
    const attention = building.use(
      await ExactAttention.create(gpu, config, weights.frequencies, maxContext, decoder.chunk),
    );
    const print = await fingerprint(files), { layers, kvHeads, headDim } = config;
    const compressed = bits && building.use(
      await compress(attention, source, { layers, kvHeads, headDim, fingerprint: print }, {
        ...bits,
        context: maxContext,
      }),
    );
    await gpu.settle();
    onProgress?.({ phase: "kernels", loaded: 1, total: 1 });
    const owned = building.move();
    const kind: CacheKind = compressed
      ? {
        model: print,
        bits: `${bits.bits.k},${bits.bits.v}`,
        codebook: compressed.digest,
        window: `${bits.window}`,
        sinks: `${bits.sinks}`,
      }
      : { model: print, bits: "16,16", codebook: "", window: "", sinks: "" };
    const engine: Engine = {
      gpu,
      config,
      tokenizer,
      decoder,
      kind,
      get disposed() {
        return owned.disposed;
      },
      encode: (prompt) => {
        if (typeof prompt === "string") return tokenizer.encode(prompt);
        return typeof prompt[0] === "object" ? encodeChat(tokenizer, prompt as Message[]) : [...prompt as number[]];
      },
      f16Bytes: (tokens) => 2 * 2 * tokens * config.layers * config.kvHeads * config.headDim,
    };
    return new Llama(owned, engine, attention, compressed, files.name, print, maxContext);
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
   * Continues a string or ids, or answers chat messages through the model's own template. Iterate the result for tokens as
   * they come; `await` its `done` for the whole.
   */
  generate(prompt: Prompt, options: GenerateOptions = {}): Generation {
    let session: Session | undefined;
    const generation = generateIn(() => session = this.#idle.pop() ?? this.session(), this.#engine, prompt, options);
    generation.whenOver(() => {
      if (!session) return;
      if (this.#idle.length === 0 && !this.#engine.disposed && !session.disposed) this.#idle.push(session);
      else session[Symbol.dispose]();
    });
    return generation;
  }

  /** Starts a sequence whose cache the caller owns: it is reused from turn to turn, forked and rewound. */
  session(): Session {
    if (this.#engine.disposed) throw new TypeError("Cannot start a session as the model was disposed of");
    return new Session(this.#engine, this.#cache());
  }

  /** The cache's figures for one session. */
  get kv(): KvFigures {
    const { maxContext, config: { layers, kvHeads, headDim } } = this, compressed = this.#compressed;
    const { attention, bits, codebookBytes } = compressed ?? { bits: { k: 16, v: 16 }, codebookBytes: 0 };
    const f16Bytes = this.#engine.f16Bytes(maxContext), bitsCode = (bits.k + bits.v) / 2;
    const effective = (tokens: number): number =>
      bitsEffective(bitsCode, attention ? CodeCache.nearOf(attention, tokens) : tokens, tokens);
    return {
      ...{ bits, bitsCode, f16Bytes, codebookBytes, maxContext },
      bytes: attention ? CodeCache.bytesOf(attention, layers, maxContext) : f16Bytes,
      bitsEffective: effective,
      bitsAll: (tokens) => bitsAll(effective(tokens), codebookBytes, 2 * tokens * layers * kvHeads * headDim),
    };
  }

  #cache(): KvCache {
    const { layers } = this.config, attention = this.#compressed?.attention;
    return attention
      ? new CodeCache(attention, layers, this.maxContext)
      : new ExactCache(this.#attention, layers, this.maxContext);
  }

  /** Frees the weights, the sessions that `generate` kept, and the device, unless it is the caller's. */
  [Symbol.dispose](): void {
    for (const session of this.#idle.splice(0)) session[Symbol.dispose]();
    this.#owned.dispose();
  }
}

/** What a compressed cache is asked for; `undefined` for an exact one. Throws for a combination with no fused kernel. */
function bitsOf({ bits = 16, codebook, window = 64, sinks = 4 }: KvOptions) {
  const { k, v } = typeof bits === "object" ? bits : { k: bits, v: bits };
  for (const [name, value] of [["k", k], ["v", v]] as const) {
    if (value !== 1 && value !== 2 && value !== 16) {
      throw new RangeError(`Cannot keep the cache at ${value} bits (${name}): it must be 1, 2 or 16`);
    }
  }
  if (k === 16 && v === 16) return undefined;
  if (k === 16 || v === 16) {
    throw new RangeError(
      `Cannot keep keys at ${k} bits and values at ${v} as no fused kernel mixes exact and compressed: compress both or none`,
    );
  }
  for (const [name, value] of [["window", window], ["sinks", sinks]] as const) {
    if (!Number.isInteger(value) || value < 0 || value > 65_536) {
      throw new RangeError(`Cannot keep the cache as ${name} must be a whole number: it is ${value}`);
    }
  }
  return { bits: { k, v }, codebook, window, sinks };
}

/** Loads a model: a `.gguf` file, a Hugging Face folder, or a `file:` or `http(s):` URL of either. */
export function load(source: string | URL, options: LoadOptions = {}): Promise<Llama> {
  return Llama.load(source, options);
}
