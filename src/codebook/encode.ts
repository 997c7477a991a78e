/**
 * Encoding with a trained codebook: scales and packed codes of keys or values, on the GPU.
 *
 * @module
 */
import { type CodecShape, tableRows } from "../core/codec.ts";
import { BLOCK, blocks } from "../core/pack.ts";
import { codeEncodeShapes, codeGramShapes, residualShape, type VectorDims } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { CodeEncode, encodeFields } from "../kernels/code_encode.ts";
import { CodeGram } from "../kernels/code_gram.ts";
import { CodeResidual, type VectorForm } from "../kernels/code_residual.ts";
import { tableOf } from "./words.ts";

/** One layer's codebook of keys or values on the GPU. Dispose it to free both tensors. */
export interface EncodeTable extends Disposable {
  /** What encoders and decoders read: `u32 [K][rows][P]`, complex numbers in two halves. */
  readonly table: Tensor;
  /** Lengths and inner products of words: what the exact search needs beside them. */
  readonly gram: Tensor;
}

/** Tensors of {@linkcode Encoder.encode}. */
export interface EncodeIo {
  /** `f32 [T][any]` rows with heads side by side, or an exact cache `u32 [K][capacity][D/2]`. */
  readonly source: Tensor;
  /** `f32 [..][P][2]` (core/rope_table.ts); where the source is a rotated cache. */
  readonly ropeTable?: Tensor;
  /** Packed codes `u32 [blocks][K][bits]` (core/pack.ts). */
  readonly codes: Tensor;
  /** One scale a token, `f16 [blocks * 32]`. */
  readonly scales: Tensor;
}

/** Tokens to encode. */
export interface EncodeSpan {
  readonly tokens: number;
  /** First slot of the cache, or first row. */
  readonly first?: number;
  /** Position of the first token; the others follow. */
  readonly position?: number;
  /** First number in a row. */
  readonly offset?: number;
  /** Block that the codes and scales begin at. */
  readonly block?: number;
}

/** Encodes keys, or values, of any layer. Dispose it to free its scratch memory. */
export class Encoder implements Disposable {
  readonly #owned = new DisposableStack();
  readonly #residual: Tensor;
  readonly #fields: Tensor;

  private constructor(
    readonly gpu: Gpu,
    readonly dims: VectorDims,
    readonly codec: CodecShape,
    readonly chunk: number,
    readonly kernels: { residual: CodeResidual; gram: CodeGram; encode: CodeEncode },
  ) {
    const { kvHeads: heads, headDim } = dims;
    this.#residual = this.#owned.use(gpu.alloc("residuals", "f32", residualShape({ headDim, heads, tokens: chunk })));
    const { fields: shape } = codeEncodeShapes({ codec, heads, capacity: chunk, codeBlocks: 0 });
    this.#fields = this.#owned.use(gpu.upload("fields", "u32", shape, encodeFields(codec)));
  }

  /** `chunk` tokens, a multiple of 32, are encoded at a time: the scratch memory is `4 * K * D` bytes for each. */
  static async create(
    gpu: Gpu,
    dims: VectorDims,
    codec: CodecShape,
    { form, chunk = 2048 }: { form: VectorForm; chunk?: number },
  ): Promise<Encoder> {
    if (codec.headDim !== dims.headDim) {
      throw new TypeError(`Cannot encode heads of ${dims.headDim} as the codec is for ${codec.headDim}`);
    }
    if (!(chunk > 0) || chunk % BLOCK !== 0) {
      throw new RangeError(`Cannot encode in chunks as a chunk must be a multiple of ${BLOCK} tokens: it is ${chunk}`);
    }
    return new Encoder(gpu, dims, codec, chunk, {
      residual: await CodeResidual.create(gpu, dims, form),
      gram: await CodeGram.create(gpu, codec),
      encode: await CodeEncode.create(gpu, codec),
    });
  }

  /** Puts a layer's words on the GPU, half-precision bits of each stage, `[K][rows of the stage][P][2]`. */
  table(stages: readonly Uint16Array[]): EncodeTable {
    const { gpu, codec } = this, { kvHeads } = this.dims, shapes = codeGramShapes(kvHeads, codec);
    const words = tableOf(codec, kvHeads, stages), stack = new DisposableStack();
    const table = stack.use(gpu.upload("codebook", "u32", [kvHeads, tableRows(codec), codec.headDim / 2], words));
    const gram = stack.use(gpu.alloc("gram", "f32", shapes.gram)), commands = gpu.commands("gram");
    this.kernels.gram.encode(commands, { table, gram }, kvHeads);
    commands.submit();
    return { table, gram, [Symbol.dispose]: () => stack.dispose() };
  }

  /**
   * Encodes tokens to whole blocks of codes; those of a last, partial block that hold no token are 0. Borrows every tensor.
   */
  encode(commands: Commands, { table, gram }: EncodeTable, io: EncodeIo, span: EncodeSpan): void {
    const { source, codes, scales, ropeTable = source } = io, { residual, encode } = this.kernels;
    const { tokens, first = 0, position = 0, offset = 0, block = 0 } = span;
    for (let at = 0; at < tokens; at += this.chunk) {
      const count = Math.min(this.chunk, tokens - at), to = block + at / BLOCK;
      residual.encode(commands, { source, ropeTable, scales, residual: this.#residual }, {
        ...{ tokens: count, first: first + at, position: position + at, offset },
        scale: to * BLOCK,
      });
      const words = { residual: this.#residual, table, gram, fields: this.#fields, codes };
      encode.encode(commands, words, { tokens: count, block: to });
    }
  }

  /** Room for the codes and scales of `tokens` tokens. The caller owns both tensors. */
  allocCodes(tokens: number): { codes: Tensor; scales: Tensor } {
    const { codec, gpu } = this, heads = this.dims.kvHeads, codeBlocks = blocks(tokens);
    const { codes } = codeEncodeShapes({ codec, heads, capacity: 0, codeBlocks });
    return {
      codes: gpu.alloc("codes", "u32", codes),
      scales: gpu.alloc("scales", "f16", [codeBlocks * BLOCK]),
    };
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}
