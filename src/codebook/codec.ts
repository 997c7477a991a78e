/**
 * The codec by itself, without a model: training, encoding, decoding and attention of one layer's keys and values, from
 * arrays to arrays.
 *
 * @module
 */
import { codeBits, type CodecShape, pairStages, publishedStages, type Stage } from "../core/codec.ts";
import { fromF16Array } from "../core/f16.ts";
import { BLOCK, blocks } from "../core/pack.ts";
import { ropeTable, ropeTableRows } from "../core/rope_table.ts";
import type { VectorDims } from "../core/shapes.ts";
import { Gpu, Staging } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { AttnCodes } from "../kernels/attn_codes.ts";
import { AttnMerge } from "../kernels/attn_merge.ts";
import { CodeBeam } from "../kernels/code_beam.ts";
import { CodeDecode } from "../kernels/code_decode.ts";
import { codeConstants, codeQuads } from "../kernels/packed_codes.ts";
import { Encoder, type EncodeTable } from "./encode.ts";
import { type Codebook, sideBook } from "./file.ts";
import type { Vectors } from "./head_group.ts";
import { type CodebookProgress, trainCodebook } from "./train_codebook.ts";
import type { Precision } from "./words.ts";

/** Numbers that go to the GPU, or come back, at a time. */
const CHUNK = 2 ** 21;

/** One thing of keys, and one of values. */
export interface Sides<T> {
  /** Of keys, before RoPE. */
  readonly keys: T;
  /** Of values. */
  readonly values: T;
}

/** Vectors of T tokens as codes: `B / D` bits an element, and `16 / (K·D)` of the scales. */
export interface PackedVectors {
  /**
   * `[ceil(T / 32)][K][B]`: 32 tokens of one head take B words, so a token B bits: 12 of each pair stage, 8 of each group of
   * a sub stage.
   */
  readonly codes: Uint32Array;
  /** `[T]`, half-precision bits: a token's length over all heads, by which its words are multiplied. */
  readonly scales: Uint16Array;
  /** Further codes of the tokens that have some, where the codebook has tiers. */
  readonly more?: Uint32Array;
}

/** Options of {@linkcode Codec.open}. */
export interface CodecOptions {
  /** Layer of the codebook. Default 0. */
  readonly layer?: number;
  /** Bits an element, where the codebook serves several; all its stages without. */
  readonly bits?: 1 | 2;
  /** A device of the caller's own: it is not destroyed. */
  readonly device?: GPUDevice;
}

/** Options of {@linkcode Codec.train}. */
export interface CodecTrainOptions {
  /** K: heads of a token. */
  readonly kvHeads: number;
  /** D: channels of a head, a multiple of 8. */
  readonly headDim: number;
  /** Bits an element, as many free pair stages as published for them. Default 2. */
  readonly bits?: 1 | 2;
  /** Stages of each side in their place. */
  readonly stages?: Sides<readonly Stage[]>;
  /** Ways that encoding keeps, up to 8; 1 is greedy, as published. Training is greedy always. Default 4. */
  readonly beam?: number;
  /** Equal seeds give equal words on the same device. Default 1. */
  readonly seed?: number;
  /** M steps of a stage. Default 30, or 100 for soft assignment. */
  readonly iterations?: number;
  /** `soft` as published, or `hard`, the default, as good in a third of the steps. */
  readonly assignment?: "hard" | "soft";
  /** How words are stored. Default `f16`. */
  readonly precision?: Precision;
  /** A device of the caller's own: it is not destroyed. */
  readonly device?: GPUDevice;
  /** Called after each stage of each head. */
  readonly onProgress?: (progress: CodebookProgress) => void;
  /** Stops between steps. */
  readonly signal?: AbortSignal;
}

/** Options of {@linkcode Codec.attend}. */
export interface AttendOptions {
  /** Q: query heads, a multiple of K; K by default. Query head q reads key/value head `floor(q·K / Q)`. */
  readonly qHeads?: number;
  /**
   * Turns keys to positions 0 to T - 1 and queries, which then are given before RoPE as keys are, to `position` and on:
   * pair d (channels d and d + D/2) by `frequencies[d]` radians a position, `[D/2]`. Without it nothing is turned.
   */
  readonly rope?: { readonly frequencies: ArrayLike<number>; readonly position: number };
}

/** One side on the GPU. */
interface Side {
  readonly codec: CodecShape;
  readonly encoder: Encoder;
  readonly table: EncodeTable;
  readonly decode: CodeDecode;
  readonly quads: Tensor;
  /** Of each head's tokens, those that are meant to have further codes, if there are tiers. */
  readonly shares: readonly number[] | undefined;
}

/**
 * Commutative vector quantization of one layer's keys and values (arXiv 2506.18879, section 4), for vectors of any origin.
 *
 * Vectors are `Float32Array`s `[T][K][D]`, tokens outermost. Every method takes arrays and gives arrays; the words and
 * the kernels' memory stay on the GPU until the codec is disposed.
 */
export class Codec implements Disposable {
  readonly #owned: DisposableStack;
  readonly #gpu: Gpu;
  readonly #sides: Sides<Side>;
  readonly #dims: VectorDims;

  private constructor(
    owned: DisposableStack,
    gpu: Gpu,
    sides: Sides<Side>,
    /** Its words, which `writeCodebook` keeps; `recordedDistortion` tells what they miss of the vectors they were trained on. */
    readonly codebook: Codebook,
  ) {
    const { kvHeads, headDim } = codebook.model;
    this.#owned = owned;
    this.#gpu = gpu;
    this.#sides = sides;
    this.#dims = { kvHeads, headDim };
  }

  /**
   * Trains words for vectors `[T][K][D]` by EM. Some thousands of tokens are needed: words fit few too well. Throws
   * `TypeError` for arrays that are not whole tokens, `RangeError` for settings that no kernel serves, and what the signal
   * was aborted with.
   */
  static async train(vectors: Sides<Float32Array>, options: CodecTrainOptions): Promise<Codec> {
    const { kvHeads, headDim, bits = 2, stages, beam = 4, device, ...rest } = options;
    expectVectors("train on", vectors, { kvHeads, headDim });
    const published = pairStages(headDim, publishedStages(headDim, bits), false).stages;
    const codec = (stages: readonly Stage[]): CodecShape => ({ headDim, stages });
    const keys = codec(stages?.keys ?? published), values = codec(stages?.values ?? published);
    expectBits(bits);
    for (const side of [keys, values]) codeConstants(side); // throws for what no kernel serves
    using owned = new DisposableStack();
    const gpu = owned.use(await Gpu.create({ device })),
      model = { layers: 1, kvHeads, headDim, fingerprint: "vectors" };
    for (const side of [keys, values]) await CodeBeam.create(gpu, side, beam); // now, not after the training
    const rows = (part: Float32Array): Vectors => ({ form: "rows", parts: [part] });
    const given = { keys: rows(vectors.keys), values: rows(vectors.values) };
    const codebook = await trainCodebook(gpu, model, () => Promise.resolve(given), { ...rest, beam, keys, values });
    return await Codec.#on(gpu, owned, codebook);
  }

  /**
   * Opens a layer of a codebook, from {@linkcode Codec.codebook} or `readCodebook`. Throws `RangeError` for a layer that
   * it has not, and `UnsupportedModelError` for one of the published value encoder or with too few stages.
   */
  static async open(codebook: Codebook, options: CodecOptions = {}): Promise<Codec> {
    using owned = new DisposableStack();
    return await Codec.#on(owned.use(await Gpu.create({ device: options.device })), owned, codebook, options);
  }

  static async #on(
    gpu: Gpu,
    owned: DisposableStack,
    codebook: Codebook,
    { layer = 0, bits }: CodecOptions = {},
  ): Promise<Codec> {
    const { layers, beam, model: { kvHeads, headDim } } = codebook, dims = { kvHeads, headDim };
    if (bits !== undefined) expectBits(bits);
    if (!layers[layer]) {
      throw new RangeError(`Cannot open layer ${layer} as the codebook has layers 0 to ${layers.length - 1}`);
    }
    const side = async (name: keyof Sides<unknown>): Promise<Side> => {
      const { codec, tier, words, metrics } = sideBook(codebook, name, bits && { k: bits, v: bits });
      const encoder = owned.use(await Encoder.create(gpu, dims, codec, { form: "rows", beam }));
      const shape = [codec.stages.length, headDim / 8, 2];
      return {
        ...{ codec, encoder, shares: tier?.shares[layer] },
        table: owned.use(encoder.table(words[layer]!, metrics[layer], tier?.thresholds[layer])),
        decode: await CodeDecode.create(gpu, codec, kvHeads),
        quads: owned.use(gpu.upload("quads", "u32", shape, codeQuads(codec))),
      };
    };
    const sides = { keys: await side("keys"), values: await side("values") };
    await gpu.settle();
    return new Codec(owned.move(), gpu, sides, codebook);
  }

  /**
   * Packs vectors `[T][K][D]`. Throws `TypeError` for arrays that are not whole tokens, and `GpuMemoryError`.
   *
   * Blocks are outermost, so without tiers the codes and scales of one call and of the next may be joined, if the first
   * had a multiple of 32 tokens.
   */
  async encode(vectors: Sides<Float32Array>): Promise<Sides<PackedVectors>> {
    this.#expectOpen("encode");
    expectVectors("encode", vectors, this.#dims);
    return { keys: await this.#encode("keys", vectors.keys), values: await this.#encode("values", vectors.values) };
  }

  async #encode(side: keyof Sides<unknown>, vectors: Float32Array): Promise<PackedVectors> {
    const { kvHeads, headDim } = this.#dims, gpu = this.#gpu, { encoder, table, shares } = this.#sides[side];
    const features = kvHeads * headDim, tokens = vectors.length / features, step = blocks(CHUNK / features) * BLOCK;
    using stack = new DisposableStack();
    const { codes, scales, more } = encoder.allocCodes(tokens, shares);
    for (const tensor of [codes, scales, more]) stack.use(tensor);
    for (let first = 0; first < tokens; first += step) {
      const count = Math.min(step, tokens - first), commands = gpu.commands("encode");
      const part = vectors.subarray(first * features, (first + count) * features);
      using source = gpu.upload("vectors", "f32", [count, features], part);
      encoder.encode(commands, table, { source, codes, scales, more }, { tokens: count, block: first / BLOCK });
      commands.submit();
    }
    return {
      codes: await gpu.readU32(codes),
      scales: new Uint16Array(await gpu.read(scales)).slice(0, tokens),
      ...more && { more: await gpu.readU32(more) },
    };
  }

  /** The vectors `[T][K][D]` that codes stand for, in half precision. Throws `TypeError` for arrays of other lengths. */
  async decode(packed: Sides<PackedVectors>): Promise<Sides<Float32Array>> {
    this.#expectOpen("decode");
    this.#expectPacked("decode", packed);
    return { keys: await this.#decode("keys", packed.keys), values: await this.#decode("values", packed.values) };
  }

  async #decode(side: keyof Sides<unknown>, packed: PackedVectors): Promise<Float32Array> {
    const { kvHeads, headDim } = this.#dims, gpu = this.#gpu, { decode, quads } = this.#sides[side];
    const features = kvHeads * headDim, tokens = packed.scales.length, vectors = new Float32Array(tokens * features);
    const step = Math.min(blocks(tokens), blocks(CHUNK / features)) * BLOCK;
    using stack = new DisposableStack();
    const out = stack.use(gpu.alloc("decoded", "u32", [kvHeads, step, headDim / 2]));
    const io = { ...this.#upload(stack, side, packed), quads, ropeTable: this.#turns(stack, 1), out };
    for (let first = 0; first < tokens; first += step) {
      const count = Math.min(step, tokens - first), commands = gpu.commands("decode");
      decode.encode(commands, io, { first, tokens: count });
      commands.submit();
      const halves = fromF16Array(new Uint16Array(await gpu.read(out)));
      for (let i = 0; i < count * kvHeads; i++) {
        const from = (i % kvHeads * step + Math.floor(i / kvHeads)) * headDim;
        vectors.set(halves.subarray(from, from + headDim), first * features + i * headDim);
      }
    }
    return vectors;
  }

  /**
   * Attention of N queries `[N][Q][D]` to all T tokens, straight over their codes: `softmax(q k' / sqrt(D)) v`, as
   * `[N][Q][D]`. Words of keys commute with RoPE (section 4), so keys are turned after they are looked up. Throws
   * `TypeError` for arrays of other lengths, and `RangeError` for query heads that K does not divide.
   */
  async attend(
    queries: Float32Array,
    packed: Sides<PackedVectors>,
    { qHeads = this.#dims.kvHeads, rope }: AttendOptions = {},
  ): Promise<Float32Array> {
    const { kvHeads, headDim } = this.#dims, gpu = this.#gpu, { keys, values } = this.#sides, width = qHeads * headDim;
    this.#expectOpen("attend");
    this.#expectPacked("attend to", packed);
    if (!(qHeads > 0 && qHeads % kvHeads === 0)) {
      throw new RangeError(
        `Cannot attend as query heads must be a multiple of the ${kvHeads} of keys: they are ${qHeads}`,
      );
    }
    expectWhole("attend with queries", queries, width, `Q x D = ${qHeads} x ${headDim}`);
    if (rope && rope.frequencies.length !== headDim / 2) {
      throw new TypeError(
        `Cannot turn keys as there must be ${
          headDim / 2
        } frequencies, one a pair: there are ${rope.frequencies.length}`,
      );
    }
    const tokens = packed.keys.scales.length, turned = atPositions(queries, width, headDim, rope);
    using stack = new DisposableStack();
    const codecs = { keys: keys.codec, values: values.codec };
    const codes = stack.use(await AttnCodes.create(gpu, { qHeads, kvHeads, ...codecs }, tokens));
    const splits = codes.states(tokens), merge = await AttnMerge.create(gpu, headDim, { splits });
    const alloc = (label: string, ...shape: number[]): Tensor => stack.use(gpu.alloc(label, "f32", shape));
    const q = alloc("query", qHeads, headDim), out = alloc("attention", qHeads, headDim);
    const states = {
      partialO: alloc("partial outputs", splits, qHeads, headDim),
      partialMd: alloc("partial sums", splits, qHeads, 2),
    };
    const sides = {
      keys: this.#upload(stack, "keys", packed.keys),
      values: this.#upload(stack, "values", packed.values),
      ropeTable: this.#turns(stack, tokens, rope?.frequencies),
    };
    const outs = stack.use(new Staging(gpu, turned.byteLength));
    for (let at = 0; at < turned.length; at += width) {
      const commands = gpu.commands("attend");
      gpu.write(q, turned.subarray(at, at + width));
      codes.encode(commands, { q, ...sides, ...states }, { tokens });
      merge.encode(commands, { ...states, out }, { rows: qHeads, splits, headDim });
      outs.copy(commands, out, 4 * at);
      commands.submit();
    }
    return new Float32Array(await outs.read());
  }

  /** Words and codes as kernels read them. */
  #upload(stack: DisposableStack, side: keyof Sides<unknown>, { codes, scales, more }: PackedVectors) {
    const gpu = this.#gpu, { codec, table: { table } } = this.#sides[side], count = blocks(scales.length);
    return {
      table,
      codes: stack.use(gpu.upload("codes", "u32", [count, this.#dims.kvHeads, codeBits(codec)], codes)),
      scales: stack.use(gpu.upload("scales", "f16", [count * BLOCK], scales)),
      ...more && { more: stack.use(gpu.upload("further codes", "u32", [more.length], more)) },
    };
  }

  /** What turns keys to positions below `context`; without frequencies, what leaves them. */
  #turns(stack: DisposableStack, context: number, frequencies?: ArrayLike<number>): Tensor {
    const pairs = this.#dims.headDim / 2, turns = Float64Array.from(frequencies ?? new Float64Array(pairs));
    const shape = [ropeTableRows(context), pairs, 2];
    return stack.use(this.#gpu.upload("turns", "f32", shape, ropeTable(turns, context)));
  }

  #expectOpen(action: string): void {
    if (this.#owned.disposed) throw new TypeError(`Cannot ${action} as the codec was disposed of`);
  }

  #expectPacked(action: string, packed: Sides<PackedVectors>): void {
    const { kvHeads } = this.#dims;
    for (const side of ["keys", "values"] as const) {
      const { codes, scales } = packed[side], { codec } = this.#sides[side], bits = codeBits(codec);
      if (scales.length === packed.keys.scales.length && codes.length === blocks(scales.length) * kvHeads * bits) {
        continue;
      }
      throw new TypeError(
        `Cannot ${action} ${side} of ${packed.keys.scales.length} tokens as there must be as many scales and ` +
          `${
            blocks(packed.keys.scales.length)
          } x ${kvHeads} x ${bits} words of codes: there are ${scales.length} and ` +
          `${codes.length}`,
      );
    }
  }

  /** Frees its memory on the GPU, and its device unless that is the caller's own; arrays that it gave are the caller's. */
  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}

function expectBits(bits: number): void {
  if (bits !== 1 && bits !== 2) throw new RangeError(`Cannot code at ${bits} bits: choose 1 or 2, or stages`);
}

/** Throws `TypeError` unless both sides are whole tokens, equally many. */
function expectVectors(action: string, { keys, values }: Sides<Float32Array>, { kvHeads, headDim }: VectorDims): void {
  for (const [side, vectors] of Object.entries({ keys, values })) {
    expectWhole(`${action} ${side}`, vectors, kvHeads * headDim, `K x D = ${kvHeads} x ${headDim}`);
  }
  if (keys.length === values.length) return;
  throw new TypeError(
    `Cannot ${action} keys and values as they must be of the same tokens: they are ${keys.length} and ${values.length} numbers`,
  );
}

/** Throws `TypeError` unless an array is whole rows. */
function expectWhole(action: string, array: Float32Array, width: number, shape: string): void {
  if (array instanceof Float32Array && array.length > 0 && array.length % width === 0) return;
  throw new TypeError(
    `Cannot ${action} as they must be a Float32Array of whole tokens, ${shape} numbers each: ` +
      `they are ${array?.length} numbers in ${Object.prototype.toString.call(array).slice(8, -1)}`,
  );
}

/** Queries over the root of D, each token's turned to its position. */
function atPositions(queries: Float32Array, width: number, headDim: number, rope: AttendOptions["rope"]): Float32Array {
  const out = new Float32Array(queries.length), pairs = headDim / 2, size = 1 / Math.sqrt(headDim);
  for (let at = 0; at < out.length; at += headDim) {
    const position = rope ? rope.position + Math.floor(at / width) : 0;
    for (let d = at; d < at + pairs; d++) {
      const angle = rope ? position * rope.frequencies[d - at]! : 0, x = queries[d]!, y = queries[d + pairs]!;
      const cosine = size * Math.cos(angle), sine = size * Math.sin(angle);
      out[d] = x * cosine - y * sine;
      out[d + pairs] = x * sine + y * cosine;
    }
  }
  return out;
}
