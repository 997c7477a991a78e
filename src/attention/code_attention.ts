/**
 * Attention to packed codes for a whole model: kernels, words and scratch, shared by all its caches.
 *
 * @module
 */
import { codeBits, type CodecShape } from "../core/codec.ts";
import { BLOCK, blocks, moreRoom, moreStarts } from "../core/pack.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { AttnCodes } from "../kernels/attn_codes.ts";
import { AttnStep } from "../kernels/attn_step.ts";
import { CodeDecode } from "../kernels/code_decode.ts";
import { codeQuads } from "../kernels/packed_codes.ts";
import type { ExactAttention } from "./exact_cache.ts";
import { MAX_RUNS } from "./runs.ts";

/** A layer's words, as an encoder puts them on the GPU. */
export interface Words {
  readonly table: Tensor;
}

/** What turns exact tokens into codes, by whole blocks: an `Encoder` of the codebook floor. */
export interface BlockEncoder {
  readonly codec: CodecShape;
  encode(
    commands: Commands,
    words: Words,
    io: { source: Tensor; ropeTable?: Tensor; codes: Tensor; scales: Tensor; more?: Tensor },
    span: { tokens: number; first: number; position: number; block: number; held: number },
  ): void;
}

/** One side of every layer: its encoder and words. */
export interface Side {
  readonly encoder: BlockEncoder;
  readonly layers: readonly Words[];
  /** Of each layer's and head's tokens, those that are meant to have further codes, if its codec has tiers. */
  readonly shares?: readonly (readonly number[])[];
}

/** What a side of a layer takes for `capacity` tokens: blocks; and if there are tiers, each head's room, and the starts. */
export function sizesOf({ encoder: { codec }, shares }: Side, layer: number, capacity: number) {
  const count = blocks(capacity) + MAX_RUNS, rooms = shares?.[layer]?.map((share) => moreRoom(capacity, share)) ?? [];
  return { count, rooms, starts: shares && moreStarts(codec, rooms, count) };
}

/** Words that further codes of a side of a layer take. */
export function moreOf(side: Side, layer: number, capacity: number): number {
  return sizesOf(side, layer, capacity).starts?.at(-1) ?? 0;
}

/** Tokens kept exact. */
export interface ExactTokens {
  /** Newest tokens, at least; up to a block more while that fills. */
  readonly window: number;
  /** First tokens. */
  readonly sinks: number;
}

/** Kernels, words and scratch of compressed attention, shared by all caches of a model. */
export class CodeAttention implements Disposable {
  readonly #owned = new DisposableStack();
  readonly partialO: Tensor;
  readonly partialMd: Tensor;
  /** Slots of the exact tokens beside the sinks: the window, and a block that fills. */
  readonly ring: number;
  readonly #quads: { keys: Tensor; values: Tensor };
  #staging: { keys: Tensor; values: Tensor } | undefined;

  private constructor(
    readonly exact: ExactAttention,
    readonly keys: Side,
    readonly values: Side,
    readonly context: number,
    readonly kept: ExactTokens,
    readonly step: AttnStep,
    readonly codes: AttnCodes,
    readonly decode: { keys: CodeDecode; values: CodeDecode },
  ) {
    const { gpu, dims: { qHeads, headDim } } = exact;
    this.#owned.use(codes);
    this.ring = blocks(kept.window) * BLOCK + BLOCK;
    const near = step.splits(kept.sinks + this.ring);
    const states = near + MAX_RUNS * codes.states(BLOCK) + 2 * codes.states(codes.capacity);
    this.partialO = this.#owned.use(gpu.alloc("partial outputs of codes", "f32", [states, qHeads, headDim]));
    this.partialMd = this.#owned.use(gpu.alloc("partial sums of codes", "f32", [states, qHeads, 2]));
    const quads = (codec: CodecShape): Tensor =>
      this.#owned.use(gpu.upload("quads", "u32", [codec.stages.length, codec.headDim / 8, 2], codeQuads(codec)));
    this.#quads = { keys: quads(keys.encoder.codec), values: quads(values.encoder.codec) };
  }

  /** @param context most tokens of a sequence */
  static async create(
    exact: ExactAttention,
    keys: Side,
    values: Side,
    context: number,
    kept: ExactTokens,
  ): Promise<CodeAttention> {
    const { gpu, dims } = exact, k = keys.encoder.codec, v = values.encoder.codec;
    const capacity = (blocks(context) + MAX_RUNS) * BLOCK;
    const codes = await AttnCodes.create(gpu, { ...dims, keys: k, values: v }, capacity);
    const step = await AttnStep.create(gpu, dims, { hasGap: true });
    return new CodeAttention(exact, keys, values, context, kept, step, codes, {
      keys: await CodeDecode.create(gpu, k, dims.kvHeads, { rotate: true }),
      values: await CodeDecode.create(gpu, v, dims.kvHeads),
    });
  }

  get gpu(): Gpu {
    return this.exact.gpu;
  }

  /** Exact keys and values of one layer while a prompt goes through it, `u32 [K][T][D/2]`. */
  staging(): { keys: Tensor; values: Tensor } {
    return this.#staging!;
  }

  /** Makes the staging large enough for `tokens`. */
  async stage(tokens: number): Promise<void> {
    const { kvHeads, headDim } = this.exact.dims;
    if (this.#staging && this.#staging.keys.shape[1]! >= tokens) return;
    this.unstage();
    const alloc = (label: string): Tensor => this.gpu.alloc(label, "u32", [kvHeads, tokens, headDim / 2]);
    this.#staging = { keys: alloc("prompt keys of a layer"), values: alloc("prompt values of a layer") };
    try {
      await this.gpu.settle();
    } catch (error) {
      this.unstage();
      throw error;
    }
  }

  /** Frees the staging. */
  unstage(): void {
    this.#staging?.keys[Symbol.dispose]();
    this.#staging?.values[Symbol.dispose]();
    this.#staging = undefined;
  }

  /** Bits that an element takes as allocated, in codes and scales. */
  bits(side: "keys" | "values"): number {
    const { kvHeads, headDim } = this.exact.dims, { layers } = this[side];
    const more = layers.reduce((sum, _, l) => sum + moreOf(this[side], l, this.context), 0) / layers.length;
    const ofBlocks = codeBits(this[side].encoder.codec) / headDim;
    return ofBlocks + 32 * more / (this.context * kvHeads * headDim) + 16 / (kvHeads * headDim);
  }

  /** What is to be known of a codec to decode it. */
  quads(side: "keys" | "values"): Tensor {
    return this.#quads[side];
  }

  [Symbol.dispose](): void {
    this.unstage();
    this.#owned.dispose();
  }
}
