/**
 * The published value codec (paper, section 3; commvq.md 3): a small network writes the values of all heads of a token
 * as bits, and a codebook with one row a bit turns bits into a direction, which the token's scale makes values again.
 *
 * @module
 */
import { fromF16Array } from "../core/f16.ts";
import { type ValueDims, type ValueWidths, valueWidths } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { elements, type Shape, type Tensor } from "../gpu/tensor.ts";
import { Gelu } from "../kernels/gelu.ts";
import { Gemm } from "../kernels/gemm.ts";
import { GumbelBits } from "../kernels/gumbel_bits.ts";
import { GumbelBitsDecode } from "../kernels/gumbel_bits_decode.ts";
import { LayerNorm } from "../kernels/layer_norm.ts";
import { UnitNorm } from "../kernels/unit_norm.ts";

/** Names of a layer's arrays. */
export type ValueArrayName =
  | "scale"
  | "linear1.weight"
  | "linear1.bias"
  | "linear2.weight"
  | "linear2.bias"
  | "codebook";

/** Every {@linkcode ValueArrayName}, in the order of files. */
export const VALUE_ARRAYS: readonly ValueArrayName[] = [
  "scale",
  "linear1.weight",
  "linear1.bias",
  "linear2.weight",
  "linear2.bias",
  "codebook",
];

/** An array of f32, or of f16 as its bits. */
export interface NamedArray {
  /** Axes, outermost first. */
  readonly shape: readonly number[];
  /** The numbers, or their halves' bits. */
  readonly data: Float32Array | Uint16Array;
}

/**
 * What encodes and decodes one layer's values of F numbers a token, C = F · bits of them bits:
 *
 * - `scale [F]`: mean magnitude of each channel, plus 1e-6;
 * - `linear1.weight [H][F]`, `linear1.bias [H]`: the first linear layer, the layer norm's gain and offset merged in;
 * - `linear2.weight [2C][H]`, `linear2.bias [2C]`: four logits a symbol of two bits;
 * - `codebook [C][F]`.
 */
export type ValueArrays = Readonly<Record<ValueArrayName, NamedArray>>;

/** Encoded values: C/32 words of 32 bits a token, first bit lowest, and a scale in half precision. */
export interface ValueCode {
  /** u32 [T][C / 32] */
  readonly words: Tensor;
  /** f16 [T] */
  readonly scales: Tensor;
}

/** The shapes of a layer's arrays. */
export function valueArrayShapes(dims: ValueDims): Record<ValueArrayName, Shape> {
  const { features } = dims, { hidden, outputs, codes } = valueWidths(dims);
  return {
    scale: [features],
    "linear1.weight": [hidden, features],
    "linear1.bias": [hidden],
    "linear2.weight": [outputs, hidden],
    "linear2.bias": [outputs],
    codebook: [codes, features],
  };
}

interface Layer {
  readonly arrays: ValueArrays;
  readonly scale: Tensor;
  readonly linear1: Tensor;
  readonly linear2: Tensor;
  readonly codebook: Tensor;
  /** The last two as decoding sees them, without the axis of layers. */
  readonly rows: { readonly codebook: Tensor; readonly scale: Tensor };
}

/** Activations of a chunk. */
interface Scratch {
  readonly normed: Tensor;
  readonly stats: Tensor;
  readonly hidden: Tensor;
  readonly active: Tensor;
  readonly logits: Tensor;
  readonly bits: Tensor;
  readonly v: Tensor;
  readonly errors: Tensor;
}

interface Kernels {
  readonly norm: LayerNorm;
  readonly linear1: Gemm;
  readonly gelu: Gelu;
  readonly linear2: Gemm;
  readonly choose: GumbelBits;
  readonly sum: Gemm;
  readonly unit: UnitNorm;
  readonly decode: GumbelBitsDecode;
}

/** The trained codecs of a model's layers, on the GPU: the published ones, with deterministic bits. */
export class ValueEncoder implements Disposable {
  readonly #owned = new DisposableStack();
  readonly #layers: Layer[];
  readonly #kernels: Kernels;
  readonly #whole: Scratch;
  readonly #scratches = new Map<number, Scratch>();
  readonly #widths: ValueWidths;

  private constructor(
    readonly gpu: Gpu,
    readonly dims: ValueDims,
    readonly chunk: number,
    arrays: readonly ValueArrays[],
    kernels: Kernels,
  ) {
    this.#kernels = kernels;
    this.#widths = valueWidths(dims);
    const { features } = dims, { folded, linear2, codes } = this.#widths;
    const upload = (label: string, shape: Shape, parts: NamedArray[]): Tensor => {
      const data = new Float32Array(elements(shape));
      let at = 0;
      for (const part of parts) {
        data.set(part.data instanceof Uint16Array ? fromF16Array(part.data) : part.data, at);
        at += part.data.length;
      }
      return this.#owned.use(gpu.upload(label, "f32", shape, data));
    };
    this.#layers = arrays.map((a) => {
      const scale = upload("value scale", [1, features], [a.scale]);
      const codebook = upload("value codebook", [1, codes, features], [a.codebook]);
      return {
        arrays: a,
        scale,
        linear1: upload("value linear1", [1, folded], [a["linear1.weight"], a["linear1.bias"]]),
        linear2: upload("value linear2", [1, linear2], [a["linear2.weight"], a["linear2.bias"]]),
        codebook,
        rows: { codebook: codebook.view(0, [codes, features]), scale: scale.view(0, [features]) },
      };
    });
    const shapes = this.#shapes(chunk);
    this.#whole = each(shapes, (shape, name) => this.#owned.use(gpu.alloc(`value ${name}`, "f32", shape)));
  }

  /**
   * Puts codecs of consecutive layers on the GPU. `chunk` tokens, a multiple of 128, are encoded at a time; it sets the
   * memory for activations. Throws `TypeError` for arrays that do not belong together.
   */
  static async fromArrays(
    gpu: Gpu,
    arrays: readonly ValueArrays[],
    { chunk = 1024 }: { chunk?: number } = {},
  ): Promise<ValueEncoder> {
    if (!(chunk > 0) || chunk % 128 !== 0) {
      throw new RangeError(
        `Cannot encode values in chunks as a chunk must be a multiple of 128 tokens: it is ${chunk}`,
      );
    }
    const dims = dimsOf(arrays), { features } = dims, { hidden, outputs, words } = valueWidths(dims);
    return new ValueEncoder(gpu, dims, chunk, arrays, {
      norm: await LayerNorm.create(gpu, features),
      linear1: await Gemm.create(gpu, { bT: true, bias: true }, hidden),
      gelu: await Gelu.create(gpu),
      linear2: await Gemm.create(gpu, { bT: true, bias: true }, outputs),
      choose: await GumbelBits.create(gpu),
      sum: await Gemm.create(gpu, {}, features),
      unit: await UnitNorm.create(gpu, features),
      decode: await GumbelBitsDecode.create(gpu, features, words),
    });
  }

  get layers(): number {
    return this.#layers.length;
  }

  /** The arrays of a layer, as a file holds them. */
  arrays(layer: number): ValueArrays {
    return this.#layer(layer).arrays;
  }

  /** Room for the code of `tokens` tokens. The caller owns both tensors. */
  allocCode(tokens: number): ValueCode {
    return {
      words: this.gpu.alloc("value bits", "u32", [tokens, this.#widths.words]),
      scales: this.gpu.alloc("value scales", "f16", [tokens]),
    };
  }

  /** Encodes `values f32 [T][F]` of a layer. Borrows every tensor. */
  encode(commands: Commands, layer: number, values: Tensor, code: ValueCode): void {
    const [tokens] = values.shape as [number];
    if (tokens <= this.chunk) return this.#encode(commands, layer, values, 0, tokens, code);
    for (let first = 0; first < tokens; first += this.chunk) {
      const count = Math.min(this.chunk, tokens - first), { words } = this.#widths;
      this.#encode(commands, layer, values, first, count, {
        words: code.words.view(first * words, [count, words]),
        scales: code.scales.view(first, [count]),
      });
    }
  }

  /** Decodes to `out f32 [T][F]`. Borrows every tensor. */
  decode(commands: Commands, layer: number, { words, scales }: ValueCode, out: Tensor): void {
    this.#kernels.decode.encode(commands, { words, scales, ...this.#layer(layer).rows, out }, out.shape[0]!);
  }

  /** NMSE of a layer: squared errors of decoded `values f32 [T][F]` over their squares, both summed over tokens. */
  async distortion(layer: number, values: Tensor): Promise<number> {
    const [tokens] = values.shape as [number], { words: wordCount } = this.#widths;
    using words = this.gpu.alloc("value bits", "u32", [this.chunk, wordCount]);
    using scales = this.gpu.alloc("value scales", "f16", [this.chunk]);
    let error = 0, energy = 0;
    for (let first = 0; first < tokens; first += this.chunk) {
      const count = Math.min(this.chunk, tokens - first), commands = this.gpu.commands("value distortion");
      const code = { words: words.view(0, [count, wordCount]), scales: scales.view(0, [count]) };
      this.#encode(commands, layer, values, first, count, code);
      commands.submit();
      const errors = await this.gpu.readF32(this.#scratch(count).errors);
      for (let t = 0; t < count; t++) [error, energy] = [error + errors[2 * t]!, energy + errors[2 * t + 1]!];
    }
    return error / energy;
  }

  #encode(commands: Commands, layer: number, values: Tensor, first: number, tokens: number, code: ValueCode): void {
    const { scale, linear1, linear2, codebook } = this.#layer(layer), k = this.#kernels, s = this.#scratch(tokens);
    const { features } = this.dims, { hidden, outputs, codes, symbols } = this.#widths;
    const batch = { layers: 1, tokens }, rows = { batch: 1, m: tokens };
    k.norm.encode(commands, { values, scale, normed: s.normed, stats: s.stats }, batch, { layer: 0, first });
    k.linear1.encode(commands, { a: s.normed, b: linear1, c: s.hidden }, { ...rows, n: hidden, k: features });
    k.gelu.encode(commands, { x: s.hidden, y: s.active });
    k.linear2.encode(commands, { a: s.active, b: linear2, c: s.logits }, { ...rows, n: outputs, k: hidden });
    k.choose.encode(commands, { logits: s.logits, bits: s.bits, words: code.words }, { ...batch, symbols });
    k.sum.encode(commands, { a: s.bits, b: codebook, c: s.v }, { ...rows, n: features, k: codes });
    const { normed, stats, v, errors } = s;
    k.unit.encode(commands, { normed, stats, scale, v, scales: code.scales, errors }, batch);
  }

  #layer(layer: number): Layer {
    const found = this.#layers[layer];
    if (!found) throw new RangeError(`Cannot use layer ${layer} as there are ${this.#layers.length} value codecs`);
    return found;
  }

  #shapes(tokens: number): Record<keyof Scratch, Shape> {
    const { features } = this.dims, { hidden, outputs, codes } = this.#widths;
    const rows = (width: number): Shape => [1, tokens, width];
    return {
      normed: rows(features),
      stats: rows(4),
      hidden: rows(hidden),
      active: rows(hidden),
      logits: rows(outputs),
      bits: rows(codes),
      v: rows(features),
      errors: rows(2),
    };
  }

  /** The chunk's activations, seen as those of `tokens`. */
  #scratch(tokens: number): Scratch {
    let scratch = this.#scratches.get(tokens);
    if (!scratch) {
      scratch = each(this.#shapes(tokens), (shape, name) => this.#whole[name].view(0, shape));
      this.#scratches.set(tokens, scratch);
    }
    return scratch;
  }

  /** Frees every layer's tensors. */
  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}

function each<K extends string, V, W>(record: Readonly<Record<K, V>>, map: (value: V, key: K) => W): Record<K, W> {
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [key, map(value as V, key as K)])) as Record<
    K,
    W
  >;
}

/** The dimensions that every layer's arrays agree on. */
function dimsOf(layers: readonly ValueArrays[]): ValueDims {
  const [features, codes] = [layers[0]?.scale?.shape[0] ?? 0, layers[0]?.codebook?.shape[0] ?? 0];
  const dims = { features, bits: codes / features as 1 | 2 }, shapes = valueArrayShapes(dims);
  for (const [layer, arrays] of layers.entries()) {
    for (const name of VALUE_ARRAYS) {
      const { shape, data } = arrays[name] ?? { shape: [], data: [] };
      if (`${shape}` === `${shapes[name]}` && data.length === elements(shape)) continue;
      throw new TypeError(
        `Cannot use the value codec of layer ${layer} as '${name}' must have shape [${
          shapes[name]
        }]: it has [${shape}]`,
      );
    }
  }
  return dims;
}
