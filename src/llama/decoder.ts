/**
 * The decoder: tokens in, logits out, over whatever cache it is given.
 *
 * @module
 */
import type { LayerCache, Span } from "../attention/kv_cache.ts";
import { GpuMemoryError } from "../core/errors.ts";
import type { LlamaConfig } from "../core/model.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { elements, type Tensor } from "../gpu/tensor.ts";
import { Activations, type Scratch } from "./activations.ts";
import { Layer } from "./layer.ts";
import type { Weights } from "./weights.ts";

/** Tokens that go through a layer at once in prefill: enough to fill a large GPU's matrix kernels. */
const CHUNK = 1024;

/** Bytes of activations that a prompt may take at once: those of 64K tokens of a model of 8 billion weights. */
const PROMPT_BYTES = 2 ** 30;
/** Tokens that go at once in any case. */
const LEAST = 64;

/** What {@linkcode Decoder.prefill} reports and heeds. */
export interface PrefillOptions {
  onProgress?: (done: number, total: number) => void;
  signal?: AbortSignal;
  /** Runs the first so many layers only, and leaves no logits. */
  layers?: number;
  /** Encodes what uses the logits, which the next step of any sequence overwrites: it runs in the same submit. */
  finish?: (commands: Commands) => void;
}

/** Runs a model's layers. Borrows its weights; owns its activations. */
export class Decoder implements Disposable {
  readonly #owned = new DisposableStack();
  readonly #activations: Activations;
  /** Residual stream of one token, and of a prompt while it is prefilled. */
  readonly #x: Tensor;
  #prompt: Tensor | undefined;
  readonly #promptIds: Tensor;
  /** Settles when the last of the prompts so far is through: one at a time, since they share their activations. */
  #turn: Promise<void> = Promise.resolve();
  /** Logits `[1][V]` of the newest token. */
  readonly logits: Tensor;
  readonly chunk: number;
  /** Bytes of activations that a prompt may take at once; less is granted by less memory. */
  promptBytes: number;

  private constructor(
    readonly gpu: Gpu,
    readonly config: LlamaConfig,
    readonly weights: Weights,
    readonly layer: Layer,
    context: number,
  ) {
    const { hidden, vocab } = config;
    this.chunk = Math.min(CHUNK, Math.ceil(context / 64) * 64);
    while (this.chunk > 64 && this.chunk * Activations.widest(config) > gpu.maxBytes) this.chunk /= 2;
    this.promptBytes = Math.min(PROMPT_BYTES, gpu.maxBytes);
    this.#activations = this.#owned.use(new Activations(gpu, config, this.chunk));
    this.#x = this.#owned.use(gpu.alloc("residual stream", "f32", [1, hidden]));
    this.#promptIds = this.#owned.use(gpu.alloc("prompt ids", "u32", [this.chunk]));
    this.logits = this.#owned.use(gpu.alloc("logits", "f32", [1, vocab]));
  }

  static async create(gpu: Gpu, config: LlamaConfig, weights: Weights, context: number): Promise<Decoder> {
    return new Decoder(gpu, config, weights, await Layer.create(gpu, config, weights), context);
  }

  /** Encodes one step: the token in `ids u32 [1]` goes through every layer and leaves its logits. */
  step(commands: Commands, ids: Tensor, cache: LayerCache): void {
    const span = { offset: 0, tokens: 1 }, scratch = this.#activations.of(1);
    this.layer.embed(commands, ids, this.#x);
    for (let i = 0; i < this.config.layers; i++) {
      this.#layer(commands, i, this.#x, scratch, cache, span);
      cache.endLayer(commands, i);
    }
    cache.commit();
    this.layer.head(commands, this.#x, 0, scratch, this.logits);
  }

  /**
   * Runs `ids` through the layers, one layer after the other over the whole prompt, so that only one layer's exact
   * keys and values need to live at a time; leaves the last token's logits. A prompt whose activations do not fit goes
   * in segments, each of which sees those before it as the cache keeps them. Stops between chunks when aborted, and then
   * the cache holds the segments that were through.
   */
  prefill(ids: readonly number[], cache: LayerCache, options: PrefillOptions = {}): Promise<void> {
    return this.#inTurn(() => this.#prefill(ids, cache, options));
  }

  /** @param visit sees the residual stream of each segment after the last layer */
  async #prefill(
    ids: readonly number[],
    cache: LayerCache,
    { onProgress, signal, finish, layers = this.config.layers }: PrefillOptions,
    visit?: (x: Tensor, span: Span) => Promise<void>,
  ): Promise<void> {
    signal?.throwIfAborted();
    let x: Tensor | undefined;
    for (let offset = 0, tokens = 0; offset < ids.length; offset += tokens) {
      const report = (done: number): void => onProgress?.(layers * offset + done, layers * ids.length);
      try {
        const part = ids.slice(offset, offset + this.#segment);
        tokens = part.length;
        x = await this.#segmentOf(part, ids.length - offset - tokens, cache, { layers, report, signal });
      } catch (error) {
        if (!(error instanceof GpuMemoryError) || tokens <= LEAST) throw error;
        this.#release(); // and again with less
        this.promptBytes = 2 * this.config.hidden * tokens;
        tokens = 0;
        continue;
      }
      await visit?.(x, { offset, tokens });
    }
    if (!x || layers < this.config.layers) return;
    const commands = this.gpu.commands("head");
    this.layer.head(commands, x, x.shape[0]! - 1, this.#activations.of(1), this.logits);
    finish?.(commands);
    commands.submit();
  }

  /** The most tokens of a segment. */
  get #segment(): number {
    return Math.max(LEAST, Math.floor(this.promptBytes / (4 * this.config.hidden)) & ~63);
  }

  /** Runs a segment, after which `coming` tokens come, and gives its residual stream after the last of the layers. */
  async #segmentOf(
    ids: readonly number[],
    coming: number,
    cache: LayerCache,
    { layers, report, signal }: { layers: number; report: (done: number) => void; signal?: AbortSignal },
  ): Promise<Tensor> {
    const state = cache.state();
    try {
      const x = await this.#embedAll(ids);
      await cache.begin(ids.length, coming);
      for (let i = 0; i < layers; i++) {
        for (const span of spans(ids.length, this.chunk)) {
          const commands = this.gpu.commands(`prefill layer ${i}`);
          this.#layer(commands, i, rows(x, span), this.#activations.of(span.tokens), cache, span);
          if (span.offset + span.tokens === ids.length) cache.endLayer(commands, i);
          commands.submit();
          await this.gpu.idle(); // so that an abort, or a signal to the process, is heard in time
          signal?.throwIfAborted();
          report(i * ids.length + span.offset + span.tokens);
        }
      }
      cache.commit();
      return x;
    } catch (error) {
      cache.restore(state);
      throw error;
    }
  }

  /**
   * Runs `ids` like {@linkcode prefill} and hands out the logits of every position in chunks `[T][V]`, in order: for
   * evaluation. The tensor is reused from chunk to chunk.
   */
  forward(
    ids: readonly number[],
    cache: LayerCache,
    visit: (logits: Tensor, span: Span) => Promise<void>,
  ): Promise<void> {
    return this.#inTurn(() => this.#forward(ids, cache, visit));
  }

  async #forward(
    ids: readonly number[],
    cache: LayerCache,
    visit: (logits: Tensor, span: Span) => Promise<void>,
  ): Promise<void> {
    const most = Math.max(1, Math.min(this.chunk, Math.floor(2 ** 26 / this.config.vocab)) & ~63 || 1);
    using logits = this.gpu.alloc("all logits", "f32", [Math.min(most, ids.length), this.config.vocab]);
    await this.#prefill(ids, cache, {}, async (x, segment) => {
      for (const { offset, tokens } of spans(segment.tokens, most)) {
        const commands = this.gpu.commands("all logits"), out = logits.view(0, [tokens, this.config.vocab]);
        this.layer.heads(commands, rows(x, { offset, tokens }), this.#activations.of(tokens), out);
        commands.submit();
        await visit(out, { offset: segment.offset + offset, tokens });
      }
    });
  }

  async #inTurn(body: () => Promise<void>): Promise<void> {
    const turn = this.#turn.then(body);
    this.#turn = turn.catch(() => {});
    await turn;
  }

  #layer(commands: Commands, i: number, x: Tensor, scratch: Scratch, cache: LayerCache, span: Span): void {
    this.layer.qkv(commands, i, x, scratch);
    cache.attend(commands, i, { qkv: scratch.qkv, out: scratch.mixed }, span);
    this.layer.rest(commands, i, x, scratch);
  }

  /** Embeds a whole prompt into `x [T][H]`, which lives until the next prompt. */
  async #embedAll(ids: readonly number[]): Promise<Tensor> {
    const { hidden } = this.config, size = ids.length * hidden;
    if (!this.#prompt || elements(this.#prompt.shape) < size) {
      this.#release();
      this.#prompt = this.gpu.alloc("prompt activations", "f32", [ids.length, hidden]);
      await this.gpu.settle();
    }
    const x = this.#prompt.view(0, [ids.length, hidden]);
    for (const span of spans(ids.length, this.chunk)) {
      const commands = this.gpu.commands("embed"), part = ids.slice(span.offset, span.offset + span.tokens);
      this.gpu.write(this.#promptIds, Uint32Array.from(part));
      this.layer.embed(commands, this.#promptIds.view(0, [span.tokens]), rows(x, span));
      commands.submit();
    }
    return x;
  }

  #release(): void {
    this.#prompt?.[Symbol.dispose]();
    this.#prompt = undefined;
  }

  [Symbol.dispose](): void {
    this.#release();
    this.#owned.dispose();
  }
}

/** Cuts `tokens` into spans of at most `most`. */
export function* spans(tokens: number, most: number): Generator<Span> {
  for (let offset = 0; offset < tokens; offset += most) yield { offset, tokens: Math.min(most, tokens - offset) };
}

/** Rows of a span of `x [T][H]`. */
function rows(x: Tensor, { offset, tokens }: Span): Tensor {
  return x.view(offset * x.shape[1]!, [tokens, x.shape[1]!]);
}
