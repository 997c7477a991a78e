/**
 * Calibration: a model's keys and values over texts, for training codebooks on.
 *
 * @module
 */
import { ExactCache } from "../attention/exact_cache.ts";
import type { ExactAttention } from "../attention/exact_cache.ts";
import type { CacheState, KvCache, Span } from "../attention/kv_cache.ts";
import { BLOCK } from "../core/pack.ts";
import type { LayerVectors } from "../codebook/train_codebook.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { Decoder } from "./decoder.ts";

/** Tokens that are read at once, from position 0 each time: what the published figures were made with. */
export const CALIBRATION_WINDOW = 2048;
/** A window that would begin this close to a document's end is left out. */
const LEAST_REST = 256;

/**
 * Cuts texts into windows of ids, each text as BOS and its tokens, until `tokens` are reached; the last window is cut.
 * Throws `RangeError` where the texts do not hold as many.
 */
export function calibrationWindows(texts: Iterable<string>, tokenizer: Tokenizer, tokens: number): number[][] {
  const windows: number[][] = [];
  let held = 0;
  for (const text of texts) {
    const ids = tokenizer.encode(text, { bos: tokenizer.bos !== null });
    for (let at = 0; at === 0 || at < ids.length - LEAST_REST; at += CALIBRATION_WINDOW) {
      const window = ids.slice(at, at + Math.min(CALIBRATION_WINDOW, tokens - held));
      if (window.length > 0) windows.push(window);
      held += window.length;
      if (held >= tokens) return windows;
    }
  }
  throw new RangeError(
    `Cannot calibrate on ${tokens} tokens as the texts hold ${held}: give more text or ask for fewer`,
  );
}

/** What calibration reports and heeds. */
export interface CalibrateOptions {
  /** Bytes of GPU memory for keys and values; layers that do not fit are collected in a further pass. */
  readonly memory?: number;
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/**
 * Keys before RoPE and values of each layer over `windows`, layer by layer in order. As many layers at a time as fit
 * `memory` are collected in one pass over the texts, so that memory is bounded whatever the number of tokens.
 */
export class Calibration implements Disposable {
  readonly #tokens: number;
  readonly #together: number;
  #first = 0;
  #layers: Tensor[][] = [];

  constructor(
    readonly gpu: Gpu,
    readonly decoder: Decoder,
    readonly attention: ExactAttention,
    readonly windows: readonly (readonly number[])[],
    readonly options: CalibrateOptions = {},
  ) {
    this.#tokens = windows.reduce((sum, { length }) => sum + length, 0);
    const { memory = 4 * gpu.maxBytes } = options;
    this.#together = Math.max(
      1,
      Math.min(decoder.config.layers, Math.floor(memory / (this.#tokens * this.#width * 4))),
    );
  }

  /** Numbers of a token's queries, keys and values. */
  get #width(): number {
    const { qHeads, kvHeads, headDim } = this.decoder.config;
    return (qHeads + 2 * kvHeads) * headDim;
  }

  /** The vectors of a layer. They are freed when a layer past them is asked for, or this object is disposed. */
  async vectors(layer: number): Promise<LayerVectors> {
    if (layer < this.#first || layer >= this.#first + this.#layers.length) await this.#collect(layer);
    const { qHeads, kvHeads, headDim } = this.decoder.config, parts = this.#layers[layer - this.#first]!;
    const vectors = (offset: number) => ({ form: "rows" as const, parts, offset });
    return { keys: vectors(qHeads * headDim), values: vectors((qHeads + kvHeads) * headDim) };
  }

  async #collect(first: number): Promise<void> {
    this[Symbol.dispose]();
    const { gpu, decoder, windows, attention, options } = this, { layers } = decoder.config;
    const count = Math.min(this.#together, layers - first);
    this.#first = first;
    this.#layers = Array.from({ length: count }, (_, l) => this.#allocate(`calibration layer ${first + l}`));
    await gpu.settle();
    using exact = new ExactCache(attention, layers, Math.max(...windows.map(({ length }) => length)));
    let done = 0;
    for (const ids of windows) {
      exact.rewind(0);
      const tap = new Tap(exact, (commands, layer, qkv, span) => {
        const parts = this.#layers[layer - first];
        if (parts) copyRows(commands, qkv, parts, done + span.offset, span.tokens);
      });
      await decoder.prefill(ids, tap, { layers: first + count, signal: options.signal });
      done += ids.length;
      options.onProgress?.(first * this.#tokens + count * done, layers * this.#tokens);
    }
  }

  /** Room for all tokens in parts of whole blocks, none above what the device binds. */
  #allocate(label: string): Tensor[] {
    const most = Math.floor(this.gpu.maxBytes / (4 * this.#width) / BLOCK) * BLOCK, parts: Tensor[] = [];
    for (let at = 0; at < this.#tokens; at += most) {
      parts.push(this.gpu.alloc(label, "f32", [Math.min(most, this.#tokens - at), this.#width]));
    }
    return parts;
  }

  [Symbol.dispose](): void {
    for (const part of this.#layers.splice(0).flat()) part[Symbol.dispose]();
  }
}

/** Copies the first `tokens` rows to row `at` of several tensors taken as one. */
function copyRows(commands: Commands, rows: Tensor, parts: readonly Tensor[], at: number, tokens: number): void {
  const bytes = 4 * rows.shape[1]!;
  let first = 0, done = 0;
  for (const part of parts) {
    const end = first + part.shape[0]!, from = at + done;
    if (from < end && done < tokens) {
      const count = Math.min(tokens - done, end - from);
      commands.copy(rows, part, count * bytes, done * bytes, (from - first) * bytes);
      done += count;
    }
    first = end;
  }
}

/** A cache that shows what goes into it. */
class Tap implements KvCache {
  constructor(
    readonly inner: KvCache,
    readonly see: (commands: Commands, layer: number, qkv: Tensor, span: Span) => void,
  ) {}

  get length(): number {
    return this.inner.length;
  }

  get capacity(): number {
    return this.inner.capacity;
  }

  get bytes(): number {
    return this.inner.bytes;
  }

  state(): CacheState {
    return this.inner.state();
  }

  restore(state: CacheState): void {
    this.inner.restore(state);
  }

  begin(tokens: number): Promise<void> | void {
    return this.inner.begin(tokens);
  }

  attend(commands: Commands, layer: number, io: { qkv: Tensor; out: Tensor }, span: Span): void {
    this.inner.attend(commands, layer, io, span);
    this.see(commands, layer, io.qkv, span);
  }

  endLayer(commands: Commands, layer: number): void {
    this.inner.endLayer(commands, layer);
  }

  commit(): void {
    this.inner.commit();
  }

  rewind(length: number): void {
    this.inner.rewind(length);
  }

  fork(): KvCache {
    return this.inner.fork();
  }

  [Symbol.dispose](): void {}
}
