/**
 * Calibration: a model's keys and values over texts, for training codebooks on.
 *
 * @module
 */
import { ExactCache } from "../attention/exact_cache.ts";
import type { ExactAttention } from "../attention/exact_cache.ts";
import type { CacheState, LayerCache, Span } from "../attention/kv_cache.ts";
import type { CodecShape } from "../core/codec.ts";
import { BLOCK } from "../core/pack.ts";
import type { Metrics } from "../codebook/file.ts";
import { addMoments, metricCell, metricRoots, queryMetric, type TurnMeans, turnMeans } from "../codebook/metric.ts";
import type { LayerVectors } from "../codebook/train_codebook.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { Decoder } from "../llama/decoder.ts";

/** Tokens that are read at once where the context is long enough, from position 0 each time: as for the published figures. */
export const CALIBRATION_WINDOW = 2048;
/** A window that would begin this close to a document's end is left out. */
const LEAST_REST = 256;

/**
 * Cuts texts into windows of ids that fit `context`, each text as BOS and its tokens, until `tokens` are reached; the last
 * window is cut. Throws `RangeError` where the texts do not hold as many.
 */
export function calibrationWindows(
  texts: Iterable<string>,
  tokenizer: Tokenizer,
  tokens: number,
  context: number = CALIBRATION_WINDOW,
): number[][] {
  const windows: number[][] = [], most = Math.min(CALIBRATION_WINDOW, context);
  let held = 0;
  for (const text of texts) {
    const ids = tokenizer.encode(text, { bos: tokenizer.bos !== null });
    for (let at = 0; at === 0 || at < ids.length - LEAST_REST; at += most) {
      const window = ids.slice(at, at + Math.min(most, tokens - held));
      if (window.length > 0) windows.push(window);
      held += window.length;
      if (held >= tokens) return windows;
    }
  }
  throw new RangeError(
    `Cannot calibrate on ${tokens} tokens as the texts hold ${held}: give more text or ask for fewer`,
  );
}

/** Queries that the metric of keys is made from: slices that are spread over all tokens, and tokens of each. */
const METRIC_SLICES = 32, METRIC_SLICE = 256;

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
  #turns: TurnMeans | undefined;

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

  /**
   * Metrics of a layer's sides for the codecs of those asked for: of keys, what its queries make of an error, averaged over
   * their distance; of values, what the output projection makes of it. Both are sums over the query heads of each KV head.
   */
  async metrics(layer: number, { keys, values }: Metrics<CodecShape>): Promise<Metrics> {
    if (layer < this.#first || layer >= this.#first + this.#layers.length) await this.#collect(layer);
    return {
      ...keys && { keys: await this.#queryMetric(layer, metricCell(keys)) },
      ...values && { values: await this.#outputMetric(layer, metricCell(values)) },
    };
  }

  async #queryMetric(layer: number, cell: number): Promise<Uint16Array> {
    const { qHeads, kvHeads, headDim } = this.decoder.config, stride = this.#width, size = headDim ** 2;
    const sums = new Float64Array(kvHeads * size), turns = this.#turns ??= turnMeans(this.decoder.weights.frequencies);
    const dims = { headDim, group: qHeads / kvHeads, stride };
    const step = Math.max(METRIC_SLICE, Math.floor(this.#tokens / METRIC_SLICES));
    for (const part of this.#layers[layer - this.#first]!) {
      for (let at = 0; at < part.shape[0]!; at += step) {
        const tokens = Math.min(METRIC_SLICE, part.shape[0]! - at);
        addMoments(sums, await this.gpu.readF32(part.view(at * stride, [tokens, stride])), dims);
      }
    }
    const metrics = new Float64Array(sums.length);
    for (let at = 0; at < sums.length; at += size) {
      metrics.set(queryMetric(sums.subarray(at, at + size), turns, headDim), at);
    }
    return metricRoots(metrics, headDim, cell);
  }

  /** The columns of the output projection are its products with unit vectors. */
  async #outputMetric(layer: number, cell: number): Promise<Uint16Array> {
    const { gpu, decoder } = this, { qHeads, kvHeads, headDim, hidden } = decoder.config, cols = qHeads * headDim;
    const { linear, weights } = decoder.layer, { o } = weights.layers[layer]!, rows = new Float32Array(hidden * cols);
    for (let first = 0; first < cols; first += decoder.chunk) {
      const count = Math.min(decoder.chunk, cols - first), units = new Float32Array(count * cols);
      for (let i = 0; i < count; i++) units[i * cols + first + i] = 1;
      using x = gpu.upload("unit vectors", "f32", [count, cols], units);
      using out = gpu.upload("columns", "f32", [count, hidden], new Float32Array(count * hidden));
      const commands = gpu.commands("output projection");
      linear.rows(commands, o, { x, out }, { residual: true });
      commands.submit();
      (await gpu.readF32(out)).forEach((y, i) => rows[i % hidden * cols + first + Math.floor(i / hidden)] = y);
    }
    const metrics = new Float64Array(kvHeads * headDim ** 2);
    addMoments(metrics, rows, { headDim, group: qHeads / kvHeads, stride: cols });
    return metricRoots(metrics, headDim, cell);
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
        if (parts) copyRows(commands, qkv, parts, done + exact.length + span.offset, span.tokens);
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
class Tap implements LayerCache {
  constructor(
    readonly inner: LayerCache,
    readonly see: (commands: Commands, layer: number, qkv: Tensor, span: Span) => void,
  ) {}

  get length(): number {
    return this.inner.length;
  }

  get capacity(): number {
    return this.inner.capacity;
  }

  state(): CacheState {
    return this.inner.state();
  }

  restore(state: CacheState): void {
    this.inner.restore(state);
  }

  begin(tokens: number, coming?: number): Promise<void> | void {
    return this.inner.begin(tokens, coming);
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
}
