/**
 * Encoding with a trained codebook: scales and packed codes of keys or values, on the GPU.
 *
 * @module
 */
import { type CodecShape, tableRows } from "../core/codec.ts";
import { fromF16Array } from "../core/f16.ts";
import { BLOCK, blocks } from "../core/pack.ts";
import { codeBeamShapes, codeGramShapes, codePackShapes, residualShape, type VectorDims } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { CodeBeam } from "../kernels/code_beam.ts";
import { CodeEncode, encodeFields } from "../kernels/code_encode.ts";
import { CodeGram } from "../kernels/code_gram.ts";
import { CodeMetric } from "../kernels/code_metric.ts";
import { CodePack } from "../kernels/code_pack.ts";
import { CodeResidual, type VectorForm } from "../kernels/code_residual.ts";
import { expectMetric, metricWords } from "./metric.ts";
import { tableOf } from "./words.ts";

/** One layer's codebook of keys or values on the GPU. Dispose it to free its tensors. */
export interface EncodeTable extends Disposable {
  /** What decoders read: `u32 [K][rows][P]`, complex numbers in two halves. */
  readonly table: Tensor;
  /** Lengths and inner products of `search`: what the exact search needs beside it. */
  readonly gram: Tensor;
  /** What the encoder compares with: the table's words in the metric; without one, the table. */
  readonly search: Tensor;
  /** Takes vectors to the metric's space, `f32 [K][D][D]`, if there is a metric. */
  readonly metric: Tensor | undefined;
  /** Bytes of all. */
  readonly bytes: number;
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
  /** What was left of the last chunk's tokens, in the metric if there is one, over their scales: `f32 [K][..][D][32]`. */
  readonly residual: Tensor;
  readonly #fields: Tensor;
  readonly #raw: Tensor | undefined;

  private constructor(
    readonly gpu: Gpu,
    readonly dims: VectorDims,
    readonly codec: CodecShape,
    readonly chunk: number,
    readonly kernels: {
      residual: CodeResidual;
      metric: CodeMetric;
      gram: CodeGram;
      encode: CodeEncode | { search: CodeBeam; pack: CodePack };
    },
  ) {
    const { kvHeads: heads, headDim } = dims;
    this.residual = this.#owned.use(gpu.alloc("residuals", "f32", residualShape({ headDim, heads, tokens: chunk })));
    const { fields, raw } = codeBeamShapes({ codec, heads, capacity: chunk });
    this.#fields = this.#owned.use(gpu.upload("fields", "u32", fields, encodeFields(codec)));
    if (!(kernels.encode instanceof CodeEncode)) this.#raw = this.#owned.use(gpu.alloc("raw codes", "u32", raw));
  }

  /**
   * `chunk` tokens, a multiple of 32, are encoded at a time: the scratch memory is `4 * K * D` bytes for each. Of `beam`
   * ways to code a token the best is taken; 1, the default, takes the nearest words stage after stage.
   */
  static async create(
    gpu: Gpu,
    dims: VectorDims,
    codec: CodecShape,
    { form, chunk = 2048, beam = 1 }: { form: VectorForm; chunk?: number; beam?: number },
  ): Promise<Encoder> {
    if (codec.headDim !== dims.headDim) {
      throw new TypeError(`Cannot encode heads of ${dims.headDim} as the codec is for ${codec.headDim}`);
    }
    if (!(chunk > 0) || chunk % BLOCK !== 0) {
      throw new RangeError(`Cannot encode in chunks as a chunk must be a multiple of ${BLOCK} tokens: it is ${chunk}`);
    }
    return new Encoder(gpu, dims, codec, chunk, {
      residual: await CodeResidual.create(gpu, dims, form),
      metric: await CodeMetric.create(gpu, dims.headDim),
      gram: await CodeGram.create(gpu, codec),
      encode: beam === 1
        ? await CodeEncode.create(gpu, codec)
        : { search: await CodeBeam.create(gpu, codec, beam), pack: await CodePack.create(gpu, codec) },
    });
  }

  /**
   * Puts a layer's words on the GPU, half-precision bits of each stage, `[K][rows of the stage][P][2]`. With a `metric`,
   * half-precision bits `[K][D][D]`, it is that space in which the nearest are searched.
   */
  table(stages: readonly Uint16Array[], metric?: Uint16Array): EncodeTable {
    const { gpu, codec } = this, { kvHeads, headDim } = this.dims, shapes = codeGramShapes(kvHeads, codec);
    const stack = new DisposableStack();
    const upload = (words: readonly Uint16Array[]): Tensor => {
      const shape = [kvHeads, tableRows(codec), headDim / 2];
      return stack.use(gpu.upload("codebook", "u32", shape, tableOf(codec, kvHeads, words)));
    };
    const table = upload(stages), gram = stack.use(gpu.alloc("gram", "f32", shapes.gram));
    const commands = gpu.commands("gram"), owned: Tensor[] = [table, gram];
    let search = table, matrices: Tensor | undefined;
    if (metric) {
      expectMetric(codec);
      search = upload(stages.map((words) => metricWords(words, metric, headDim)));
      matrices = stack.use(gpu.upload("metric", "f32", [kvHeads, headDim, headDim], fromF16Array(metric)));
      owned.push(search, matrices);
    }
    this.kernels.gram.encode(commands, { table: search, gram }, kvHeads);
    commands.submit();
    const bytes = owned.reduce((sum, { byteLength }) => sum + byteLength, 0);
    return { table, gram, search, metric: matrices, bytes, [Symbol.dispose]: () => stack.dispose() };
  }

  /**
   * Encodes tokens to whole blocks of codes; those of a last, partial block that hold no token are 0. Borrows every tensor.
   */
  encode(commands: Commands, { search: table, gram, metric }: EncodeTable, io: EncodeIo, span: EncodeSpan): void {
    const { source, codes, scales, ropeTable = source } = io, { kernels, residual } = this;
    const { tokens, first = 0, position = 0, offset = 0, block = 0 } = span;
    for (let at = 0; at < tokens; at += this.chunk) {
      const count = Math.min(this.chunk, tokens - at), to = block + at / BLOCK;
      kernels.residual.encode(commands, { source, ropeTable, scales, residual }, {
        ...{ tokens: count, first: first + at, position: position + at, offset },
        scale: to * BLOCK,
      });
      if (metric) kernels.metric.encode(commands, { residual, metric }, blocks(count));
      const words = { residual, table, gram, fields: this.#fields }, packed = { tokens: count, block: to };
      if (kernels.encode instanceof CodeEncode) kernels.encode.encode(commands, { ...words, codes }, packed);
      else {
        const { search, pack } = kernels.encode, raw = this.#raw!;
        search.encode(commands, { ...words, raw }, count);
        pack.encode(commands, { ...words, raw, codes }, packed);
      }
    }
  }

  /** Room for the codes and scales of `tokens` tokens. The caller owns both tensors. */
  allocCodes(tokens: number): { codes: Tensor; scales: Tensor } {
    const { codec, gpu } = this, heads = this.dims.kvHeads, codeBlocks = blocks(tokens);
    const { codes } = codePackShapes({ codec, heads, capacity: 0, codeBlocks });
    return {
      codes: gpu.alloc("codes", "u32", codes),
      scales: gpu.alloc("scales", "f16", [codeBlocks * BLOCK]),
    };
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}
