/**
 * Encoding with a trained codebook: scales and packed codes of keys or values, on the GPU.
 *
 * @module
 */
import { baseOf, codeBits, type CodecShape, tableRows } from "../core/codec.ts";
import { BLOCK, blocks, moreRoom, moreStarts } from "../core/pack.ts";
import { codeBeamShapes, missedShape, residualShape, type VectorDims } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Data, Gpu } from "../gpu/gpu.ts";
import type { DType, Shape, Tensor } from "../gpu/tensor.ts";
import { CodeBeam } from "../kernels/code_beam.ts";
import { CodeEncode, encodeFields } from "../kernels/code_encode.ts";
import { CodeGram } from "../kernels/code_gram.ts";
import { CodeMetric } from "../kernels/code_metric.ts";
import { CodeMissed } from "../kernels/code_missed.ts";
import { CodePack } from "../kernels/code_pack.ts";
import { CodeResidual, type VectorForm } from "../kernels/code_residual.ts";
import { CodeSearch } from "../kernels/code_search.ts";
import { CodeTier } from "../kernels/code_tier.ts";
import { allocMore } from "../kernels/packed_codes.ts";
import { expectMetric } from "./metric.ts";
import { tableOf } from "./words.ts";

/** One layer's codebook of keys or values on the GPU. Dispose it to free its tensors. */
export interface EncodeTable extends Disposable {
  /** What decoders read: `u32 [K][rows][P]`, complex numbers in two halves. */
  readonly table: Tensor;
  /** Takes vectors and words to the metric's space, `u32 [K][D][D/2]`, two halves each, if there is a metric. */
  readonly metric: Tensor | undefined;
  /** Squared errors of the first stages above which a head's tokens have further codes, `f32 [K]`, if the codec has tiers. */
  readonly thresholds: Tensor | undefined;
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
  /** Further codes `u32` (core/pack.ts), where the codec has tiers. */
  readonly more?: Tensor;
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
  /** Tokens of the block before that one that are held; all, by default. Only tiers ask. */
  readonly held?: number;
}

/** Encodes keys, or values, of any layer. Dispose it to free its scratch memory. */
export class Encoder implements Disposable {
  readonly #owned = new DisposableStack();
  /**
   * What was left of the last chunk's tokens, in the metric if there is one, over their scales: `f32 [K][..][D][32]`. Of a
   * codec with tiers it is scratch.
   */
  readonly residual: Tensor;
  /** Lengths and inner products of the words of the last call: what the exact search needs beside them. */
  readonly #gram: Tensor;
  readonly #fields: Tensor;
  readonly #raw: Tensor | undefined;
  /** Codes of the first stages, where there are tiers. */
  readonly #few: { raw: Tensor; fields: Tensor } | undefined;
  /** Which tokens these miss by too much. */
  readonly #missed: Tensor | undefined;
  /** The words of the last call in their metric, if any had one: as a table, half-precision. */
  #search: Tensor | undefined;

  private constructor(
    readonly gpu: Gpu,
    readonly dims: VectorDims,
    readonly codec: CodecShape,
    readonly chunk: number,
    readonly kernels: {
      residual: CodeResidual;
      metric: CodeMetric;
      search: CodeSearch;
      gram: CodeGram;
      encode: CodeEncode | {
        search: CodeBeam;
        pack: CodePack;
        tier?: { few: CodeBeam; missed: CodeMissed; choose: CodeTier };
      };
    },
  ) {
    const { kvHeads: heads, headDim } = dims;
    this.residual = this.#owned.use(gpu.alloc("residuals", "f32", residualShape({ headDim, heads, tokens: chunk })));
    const { fields, raw, gram } = codeBeamShapes({ codec, heads, capacity: chunk });
    this.#gram = this.#owned.use(gpu.alloc("gram", "f32", gram));
    this.#fields = this.#owned.use(gpu.upload("fields", "u32", fields, encodeFields(codec)));
    if (!(kernels.encode instanceof CodeEncode)) this.#raw = this.#owned.use(gpu.alloc("raw codes", "u32", raw));
    if (codec.base !== undefined) {
      const few = codeBeamShapes({ codec, heads, capacity: chunk, stages: codec.base });
      const codes = this.#owned.use(gpu.alloc("raw codes of the first stages", "u32", few.raw));
      this.#few = { raw: codes, fields: this.#fields.view(0, few.fields) };
      this.#missed = this.#owned.use(gpu.alloc("missed tokens", "u32", missedShape(heads, chunk)));
    }
  }

  /**
   * `chunk` tokens, a multiple of 32, are encoded at a time: the scratch memory is `4 * K * D` bytes for each, and what
   * the search needs of one layer's words. Of `beam` ways to code a token the best is taken; 1, the default, takes the
   * nearest words stage after stage.
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
    const { base } = codec;
    return new Encoder(gpu, dims, codec, chunk, {
      residual: await CodeResidual.create(gpu, dims, form),
      metric: await CodeMetric.create(gpu, dims.headDim),
      search: await CodeSearch.create(gpu, codec),
      gram: await CodeGram.create(gpu, codec),
      encode: beam === 1 && base === undefined ? await CodeEncode.create(gpu, codec) : {
        search: await CodeBeam.create(gpu, codec, beam),
        pack: await CodePack.create(gpu, baseOf(codec)),
        ...base !== undefined && {
          tier: {
            few: await CodeBeam.create(gpu, codec, beam, base),
            missed: await CodeMissed.create(gpu, codec.headDim),
            choose: await CodeTier.create(gpu, codec),
          },
        },
      },
    });
  }

  /**
   * Puts a layer's words on the GPU, half-precision bits of each stage, `[K][rows of the stage][P][2]`. With a `metric`,
   * half-precision bits `[K][D][D]`, it is that space in which the nearest are searched. A codec with tiers takes their
   * `thresholds [K]`.
   */
  table(stages: readonly Uint16Array[], metric?: Uint16Array, thresholds?: readonly number[]): EncodeTable {
    const { gpu, codec } = this, { kvHeads, headDim } = this.dims, stack = new DisposableStack();
    if ((thresholds === undefined) !== (codec.base === undefined)) {
      throw new TypeError("Cannot make a table as a codec with tiers takes thresholds, and no other does");
    }
    const shape = [kvHeads, tableRows(codec), headDim / 2], words = tableOf(codec, kvHeads, stages);
    if (metric) {
      expectMetric(codec, metric);
      this.#search ??= this.#owned.use(gpu.alloc("words in a metric", "u32", shape));
    }
    const upload = (label: string, dtype: DType, shape: Shape, data: Data): Tensor =>
      stack.use(gpu.upload(label, dtype, shape, data));
    const held = {
      table: upload("codebook", "u32", shape, words),
      metric: metric && upload("metric", "u32", [kvHeads, headDim, headDim / 2], metric),
      thresholds: thresholds && upload("thresholds", "f32", [kvHeads], Float32Array.from(thresholds)),
    };
    const bytes = Object.values(held).reduce((sum, tensor) => sum + (tensor?.byteLength ?? 0), 0);
    return { ...held, bytes, [Symbol.dispose]: () => stack.dispose() };
  }

  /**
   * Encodes tokens to whole blocks of codes; those of a last, partial block that hold no token are 0. What the search
   * needs of the words is made anew: fewer calls of more tokens cost less. Borrows every tensor.
   */
  encode(commands: Commands, of: EncodeTable, io: EncodeIo, span: EncodeSpan): void {
    const { kernels, residual, dims: { kvHeads } } = this, { encode } = kernels, { table: plain, metric } = of;
    const { tokens, block = 0, held = BLOCK } = span, { codes, scales } = io;
    const table = metric ? this.#search! : plain, gram = this.#gram;
    if (metric) kernels.search.encode(commands, { table: plain, metric, search: table }, kvHeads);
    kernels.gram.encode(commands, { table, gram }, kvHeads);
    for (let at = 0; at < tokens; at += this.chunk) {
      const count = Math.min(this.chunk, tokens - at), to = block + at / BLOCK, packed = { tokens: count, block: to };
      const fields = this.#fields, words = { residual, table, gram, fields };
      this.#residuals(commands, metric, io, span, at, count);
      if (encode instanceof CodeEncode) {
        encode.encode(commands, { ...words, codes }, packed);
        continue;
      }
      const all = this.#raw!, few = this.#few;
      if (!few) {
        encode.search.encode(commands, { ...words, raw: all }, count);
        encode.pack.encode(commands, { raw: all, fields, codes }, packed);
        continue;
      }
      const tier = encode.tier!, { thresholds } = of, missed = this.#missed!;
      tier.few.encode(commands, { ...words, ...few }, count);
      tier.missed.encode(
        commands,
        { residual, scales, thresholds: thresholds!, missed },
        { tokens: count, scale: to * BLOCK },
      );
      this.#residuals(commands, metric, io, span, at, count);
      encode.search.encode(commands, { ...words, missed, raw: all }, count);
      tier.choose.encode(
        commands,
        { missed, fields, all, raw: few.raw, more: io.more! },
        { ...packed, codeBlocks: codes.shape[0]!, held: at === 0 ? held : BLOCK },
      );
      encode.pack.encode(commands, { ...few, codes }, packed);
    }
  }

  /** What the first stage of a chunk's tokens codes. */
  #residuals(
    commands: Commands,
    metric: Tensor | undefined,
    { source, scales, ropeTable = source }: EncodeIo,
    { first = 0, position = 0, offset = 0, block = 0 }: EncodeSpan,
    at: number,
    tokens: number,
  ): void {
    const { kernels, residual } = this, span = { tokens, first: first + at, position: position + at, offset };
    kernels.residual.encode(commands, { source, ropeTable, scales, residual }, { ...span, scale: block * BLOCK + at });
    if (metric) kernels.metric.encode(commands, { residual, metric }, blocks(tokens));
  }

  /**
   * Room for the codes and scales of `tokens` tokens, and for further codes of as many as `shares [K]` of them are meant to
   * have some (`moreRoom`). The caller owns the tensors.
   */
  allocCodes(tokens: number, shares?: readonly number[]): { codes: Tensor; scales: Tensor; more?: Tensor } {
    const { codec, gpu } = this, heads = this.dims.kvHeads, codeBlocks = blocks(tokens);
    const rooms = Array.from({ length: heads }, (_, k) => moreRoom(tokens, shares?.[k] ?? 0));
    return {
      codes: gpu.alloc("codes", "u32", [codeBlocks, heads, codeBits(codec)]),
      scales: gpu.alloc("scales", "f16", [codeBlocks * BLOCK]),
      ...codec.base !== undefined && { more: allocMore(gpu, moreStarts(codec, rooms, codeBlocks)) },
    };
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}
