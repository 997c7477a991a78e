/**
 * What a pass through a layer leaves on its way.
 *
 * @module
 */
import type { LlamaConfig } from "../core/model.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";

/** Views kept, by their tokens. */
const MAX_VIEWS = 16;

/** Activations of `T` tokens, `f32 [T][..]`, in the order of use. */
export interface Scratch {
  readonly tokens: number;
  readonly normed: Tensor;
  readonly qkv: Tensor;
  readonly mixed: Tensor;
  readonly gateUp: Tensor;
  readonly gated: Tensor;
}

/**
 * Room for the activations of a chunk. What has been used makes room for what comes: three buffers, since one dispatch may
 * not read and write the same.
 */
export class Activations implements Disposable {
  readonly #owned = new DisposableStack();
  readonly #buffers: readonly Tensor[];
  readonly #views = new Map<number, Scratch>();

  constructor(gpu: Gpu, readonly config: LlamaConfig, chunk: number) {
    this.#buffers = widths(config).map((width) =>
      this.#owned.use(gpu.alloc("activations", "f32", [chunk, Math.max(...width)]))
    );
  }

  /** Bytes of a token in the widest of the buffers. */
  static widest(config: LlamaConfig): number {
    return 4 * Math.max(...widths(config).flat());
  }

  /** Views for `tokens`, at most those of the chunk. */
  of(tokens: number): Scratch {
    let scratch = this.#views.get(tokens);
    if (scratch) return scratch;
    if (this.#views.size >= MAX_VIEWS) this.#views.clear();
    const [[normed], [qkv, gateUp], [mixed, gated]] = widths(this.config);
    const view = (buffer: number, width: number): Tensor => this.#buffers[buffer]!.view(0, [tokens, width]);
    scratch = {
      tokens,
      normed: view(0, normed),
      qkv: view(1, qkv),
      mixed: view(2, mixed),
      gateUp: view(1, gateUp),
      gated: view(2, gated),
    };
    this.#views.set(tokens, scratch);
    return scratch;
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}

/** Widths of what shares a buffer: a product's input, what it makes, and what comes of that. */
function widths(
  { hidden, qHeads, kvHeads, headDim, ffn }: LlamaConfig,
): [[number], [number, number], [number, number]] {
  return [[hidden], [(qHeads + 2 * kvHeads) * headDim, 2 * ffn], [qHeads * headDim, ffn]];
}
