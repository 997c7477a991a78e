/**
 * A pass of all positions of a text at once, layer by layer, in which a query sees near tokens exactly and far ones as a
 * codec leaves them: what a compressed cache does, without its step from token to token. Errors compound, since each
 * layer's keys and values come from what the layers before it made of theirs.
 *
 * @module
 */
import type { LlamaConfig } from "../core/model.ts";
import { ropeTable, ropeTableRows } from "../core/rope_table.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { AttnMerge } from "../kernels/attn_merge.ts";
import { AttnPrefill } from "../kernels/attn_prefill.ts";
import { RopeStore } from "../kernels/rope_store.ts";
import type { Span } from "../attention/kv_cache.ts";
import { Activations } from "../llama/activations.ts";
import { spans } from "../llama/decoder.ts";
import type { Engine } from "../llama/llama.ts";
import { type CachePair, readNumbers } from "./numbers.ts";

/** Makes of a layer's keys and values what is left of them once they are stored. */
export interface CacheCodec {
  /** Reads every token of `exact` and writes `left`. Both are borrowed; commands are the codec's own to submit. */
  quantize(layer: number, exact: CachePair, left: CachePair): Promise<void>;
}

/** Far tokens: seen exactly, not at all, or as a codec leaves them. */
export type Far = "exact" | "dropped" | CacheCodec;

/** Which tokens are near. The query at t sees s > t - window and s < sinks exactly. */
export interface Near {
  readonly window: number;
  readonly sinks: number;
}

/** Options of {@linkcode Forward.run}. */
export interface RunOptions {
  readonly far: Far;
  /** First token to compute; those before it are taken as the last exact run left them. */
  readonly from?: number;
  readonly signal?: AbortSignal;
  /** Called when a layer's keys and values are in place, before its attention. */
  readonly visit?: (layer: number) => Promise<void>;
  /** Called after each layer. */
  readonly onLayer?: () => void;
}

/** What a codec does to one layer, given exact inputs. */
export interface LayerError {
  /** Squared error over squared norm: mean of the heads'. */
  readonly keyNmse: number;
  /** Squared error over squared norm, of all numbers. */
  readonly valueNmse: number;
  /** `||(A' - A) W_O|| / ||A W_O||` of the attention's output A. */
  readonly outputError: number;
}

/** Runs texts of up to `capacity` tokens through a model. Borrows its engine; owns its activations and one cache. */
export class Forward implements Disposable {
  readonly gpu: Gpu;
  readonly config: LlamaConfig;
  readonly #owned = new DisposableStack();
  readonly #caches: readonly CachePair[];
  readonly #left: CachePair;
  /** Cosines and sines, as core/rope_table.ts has them. */
  readonly ropeTable: Tensor;
  readonly #queries: Tensor;
  readonly #ids: Tensor;
  readonly #activations: Activations;
  readonly #partialO: Tensor;
  readonly #partialMd: Tensor;
  readonly #outputs: readonly [Tensor, Tensor];
  #text: readonly number[] = [];
  #pairs: readonly CachePair[] = [];
  #leftPair: CachePair;

  private constructor(
    readonly engine: Engine,
    readonly capacity: number,
    readonly near: Near,
    readonly ops: { store: RopeStore; causal: AttnPrefill; near: AttnPrefill; far: AttnPrefill; merge: AttnMerge },
  ) {
    const { gpu, config, decoder: { chunk, weights } } = engine, { hidden, qHeads, kvHeads, headDim } = config;
    this.gpu = gpu;
    this.config = config;
    const alloc = (label: string, ...shape: number[]): Tensor => this.#owned.use(gpu.alloc(label, "f32", shape));
    const cache = (label: string): Tensor => this.#owned.use(gpu.alloc(label, "u32", [kvHeads, capacity, headDim / 2]));
    const pair = (label: string): CachePair => ({ keys: cache(`${label} keys`), values: cache(`${label} values`) });
    this.#caches = Array.from({ length: config.layers }, (_, i) => pair(`layer ${i}`));
    this.#left = this.#leftPair = pair("quantized");
    this.ropeTable = alloc("rope table", ropeTableRows(capacity), headDim / 2, 2);
    gpu.write(this.ropeTable, ropeTable(weights.frequencies, capacity));
    this.#queries = alloc("queries", capacity, qHeads, headDim);
    this.#ids = this.#owned.use(gpu.alloc("ids", "u32", [chunk]));
    this.#activations = this.#owned.use(new Activations(gpu, config, chunk));
    this.#partialO = alloc("partial outputs", 2, chunk * qHeads, headDim);
    this.#partialMd = alloc("partial maxima and sums", 2, chunk * qHeads, 2);
    this.#outputs = [alloc("attention output", chunk, hidden), alloc("attention output", chunk, hidden)];
  }

  static async create(engine: Engine, capacity: number, near: Near): Promise<Forward> {
    const { gpu, config } = engine;
    const forward = new Forward(engine, capacity, near, {
      store: await RopeStore.create(gpu, config),
      causal: await AttnPrefill.create(gpu, config),
      near: await AttnPrefill.create(gpu, config, { mask: "near" }),
      far: await AttnPrefill.create(gpu, config, { mask: "far" }),
      merge: await AttnMerge.create(gpu, config.headDim, { splits: 2 }),
    });
    await gpu.settle();
    return forward;
  }

  /** Room for the residual stream of a whole text, `f32 [T][H]`. The caller owns it. */
  allocRows(): Tensor {
    return this.gpu.alloc("residual stream", "f32", [this.capacity, this.config.hidden]);
  }

  /** Makes `ids` the text that the next runs are about. */
  begin(ids: readonly number[]): void {
    if (ids.length > this.capacity) {
      throw new RangeError(`Cannot run a text of ${ids.length} tokens as there is room for ${this.capacity}`);
    }
    const { kvHeads, headDim } = this.config, shape = [kvHeads, ids.length, headDim / 2];
    const view = ({ keys, values }: CachePair): CachePair => ({
      keys: keys.view(0, shape),
      values: values.view(0, shape),
    });
    this.#text = ids;
    this.#pairs = this.#caches.map(view);
    this.#leftPair = view(this.#left);
  }

  /** Keys after RoPE and values of a layer, as the last run left them. */
  pair(layer: number): CachePair {
    return this.#pairs[layer]!;
  }

  /**
   * Runs the text's tokens from `from` on and leaves their residual stream in the first rows of `x f32 [..][H]`. Queries
   * from there on see far tokens, those before `from` included, as `far` says.
   */
  async run(x: Tensor, { far, from = 0, signal, visit, onLayer }: RunOptions): Promise<void> {
    const { layer: ops, chunk } = this.engine.decoder, tokens = this.#text.length - from;
    for (const span of spans(tokens, chunk)) {
      const at = from + span.offset, commands = this.gpu.commands("embed");
      this.gpu.write(this.#ids, Uint32Array.from(this.#text.slice(at, at + span.tokens)));
      ops.embed(commands, this.#ids.view(0, [span.tokens]), rows(x, span));
      commands.submit();
    }
    for (let i = 0; i < this.config.layers; i++) {
      let commands = this.gpu.commands(`layer ${i} keys and values`);
      for (const span of spans(tokens, chunk)) {
        const scratch = this.#activations.of(span.tokens), at = from + span.offset;
        ops.qkv(commands, i, rows(x, span), scratch);
        const io = { qkv: scratch.qkv, ropeTable: this.ropeTable, q: this.#q(span), ...this.#pairs[i]! };
        this.ops.store.encode(commands, io, { tokens: span.tokens, position: at, slot: at });
      }
      commands.submit();
      await visit?.(i);
      if (typeof far === "object") await far.quantize(i, this.#pairs[i]!, this.#leftPair);
      commands = this.gpu.commands(`layer ${i}`);
      for (const span of spans(tokens, chunk)) {
        const scratch = this.#activations.of(span.tokens);
        this.#attend(commands, i, far, span, from, scratch.mixed);
        ops.rest(commands, i, rows(x, span), scratch);
      }
      commands.submit();
      await this.gpu.idle(); // so that an abort is heard in time
      signal?.throwIfAborted();
      onLayer?.();
    }
  }

  /** What is lost of a layer whose exact keys, values and queries are in place: for `visit` of an exact run. */
  async measure(layer: number, far: Exclude<Far, "exact">): Promise<LayerError> {
    const { linear, weights } = this.engine.decoder.layer, { o } = weights.layers[layer]!;
    const exact = this.#pairs[layer]!, left = this.#leftPair;
    if (far !== "dropped") await far.quantize(layer, exact, left);
    let error = 0, norm = 0;
    for (const span of spans(this.#text.length, this.engine.decoder.chunk)) {
      const outs = this.#outputs.map((out) => out.view(0, [span.tokens, this.config.hidden])) as [Tensor, Tensor];
      const { mixed } = this.#activations.of(span.tokens), commands = this.gpu.commands("attention output");
      for (const [i, seen] of (["exact", far] as const).entries()) {
        this.#attend(commands, layer, seen, span, 0, mixed);
        commands.encoder.clearBuffer(outs[i]!.buffer, outs[i]!.byteOffset, outs[i]!.byteLength);
        linear.rows(commands, o, { x: mixed, out: outs[i]! }, { residual: true });
      }
      commands.submit();
      const [a, b] = [await this.gpu.readF32(outs[0]), await this.gpu.readF32(outs[1])];
      error += squaredError(a, b);
      norm += squaredError(a);
    }
    const { kvHeads } = this.config,
      nmse = async (side: "keys" | "values", parts: number): Promise<number> => {
        if (far === "dropped") return 1;
        const [a, b] = [await readNumbers(this.gpu, exact[side]), await readNumbers(this.gpu, left[side])];
        let sum = 0;
        for (let k = 0, size = a.length / parts; k < parts; k++) {
          const own = a.subarray(k * size, (k + 1) * size);
          sum += squaredError(own, b.subarray(k * size, (k + 1) * size)) / squaredError(own);
        }
        return sum / parts;
      };
    return {
      keyNmse: await nmse("keys", kvHeads),
      valueNmse: await nmse("values", 1),
      outputError: Math.sqrt(error / norm),
    };
  }

  /** Attention of a span of queries, the first of which stands at `from`: `out f32 [T][Q·D]`. */
  #attend(commands: Commands, layer: number, far: Far, span: Span, from: number, out: Tensor): void {
    const { tokens } = span, { qHeads, headDim } = this.config, { causal, near, merge } = this.ops;
    const q = this.#q(span), count = tokens * qHeads, exact = this.#pairs[layer]!;
    const context = { tokens, start: 0, seen: from + span.offset + 1, ...this.near };
    const md = this.#partialMd.view(0, [2, count, 2]), partialO = this.#partialO.view(0, [2, count, headDim]);
    if (far === "exact") {
      causal.encode(commands, { q, ...exact, out, md: this.#partialMd.view(0, [1, count, 2]) }, context);
      return;
    }
    near.encode(commands, { q, ...exact, out: partialO, md }, { ...context, state: 0 });
    if (far !== "dropped") {
      this.ops.far.encode(commands, { q, ...this.#leftPair, out: partialO, md }, { ...context, state: 1 });
    }
    const splits = far === "dropped" ? 1 : 2, io = { partialO, partialMd: md, out: out.view(0, [count, headDim]) };
    merge.encode(commands, io, { rows: count, splits, headDim });
  }

  #q({ offset, tokens }: Span): Tensor {
    const { qHeads, headDim } = this.config;
    return this.#queries.view(offset * qHeads * headDim, [tokens, qHeads, headDim]);
  }

  /** Copies the residual stream of the text's tokens from `from` on to the first rows of `to`. */
  copyTail(x: Tensor, from: number, to: Tensor): void {
    const row = this.config.hidden * 4, commands = this.gpu.commands("tail");
    commands.copy(x, to, (this.#text.length - from) * row, from * row);
    commands.submit();
  }

  /** Logits `f32 [T][V]` of a span of rows of `x`. */
  logits(commands: Commands, x: Tensor, span: Span, out: Tensor): void {
    this.engine.decoder.layer.heads(commands, rows(x, span), this.#activations.of(span.tokens), out);
  }

  /** Frees activations and cache. */
  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}

/** Sum of the squares of `a - b`, or of `a`. */
function squaredError(a: Float32Array, b?: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i]! - (b ? b[i]! : 0)) ** 2;
  return sum;
}

/** Rows of a span of `x [T][H]`. */
function rows(x: Tensor, { offset, tokens }: Span): Tensor {
  return x.view(offset * x.shape[1]!, [tokens, x.shape[1]!]);
}
