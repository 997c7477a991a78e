/**
 * Training of the published value codec, wholly on the GPU: hard Gumbel-softmax with a straight-through gradient and
 * AdamW, all of a group's layers in one batch of products.
 *
 * @module
 */
import { Rng } from "../core/rng.ts";
import { channelSumsShapes, type GemmDims, type ValueDims, type ValueWidths, valueWidths } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { DType, Shape, Tensor } from "../gpu/tensor.ts";
import { AdamW } from "../kernels/adamw.ts";
import { ChannelSums, chooseChannelChunk } from "../kernels/channel_sums.ts";
import { Gelu } from "../kernels/gelu.ts";
import { Gemm } from "../kernels/gemm.ts";
import { GumbelBits } from "../kernels/gumbel_bits.ts";
import { LayerNorm } from "../kernels/layer_norm.ts";
import { LayerNormFold } from "../kernels/layer_norm_fold.ts";
import { UnitNorm } from "../kernels/unit_norm.ts";
import { VALUE_ARRAYS, type ValueArrays, valueArrayShapes, ValueEncoder } from "./value_encoder.ts";

/** The published recipe. */
const RATE = 1e-3, BETA1 = 0.9, BETA2 = 0.95, DECAY = 0.1, WARM_UP = 100;
const EPS = 1e-6;
/** From one seed of several to the next. */
const SEED_STEP = 1_000_003;
/** Steps between looks at the loss, at the signal, and at the queue, which must not grow without end. */
const REPORT_EVERY = 50;
/** Memory for training that a group of layers may take, unless one layer takes more. */
const GROUP_BYTES = 2 ** 31;

/** How training goes. */
export interface ValueProgress {
  /** Layers that are being trained: `[first, end)` of `layers`. */
  readonly first: number;
  readonly end: number;
  readonly layers: number;
  /** Steps done, of all seeds together. */
  readonly step: number;
  readonly steps: number;
  /** Mean squared error over variance of the last batch, by layer of the group. */
  readonly losses: Float64Array;
}

/** Options of {@linkcode trainValueEncoder}; the defaults are the published recipe. */
export interface TrainValueOptions {
  readonly bits: 1 | 2;
  /** Default 3,000. */
  readonly steps?: number;
  /** Tokens of a step, drawn with replacement. Default 4,096. */
  readonly batch?: number;
  /** Decides initial parameters, drawn tokens and noise. Default 1. */
  readonly seed?: number;
  /**
   * Trains so many times from as many seeds, the first of them `seed`, and keeps each layer's result of least
   * distortion on its values: single ones differ by several per cent. Default 1, as published.
   */
  readonly seeds?: number;
  readonly onProgress?: (progress: ValueProgress) => void;
  /** Stops between steps. */
  readonly signal?: AbortSignal;
}

/**
 * Trains one value codec per layer from its values `f32 [T][F]`, all KV heads of a token side by side. Layers are
 * independent: a layer's result depends on its values, the options and the device, not on the other layers. Throws
 * what the signal was aborted with.
 */
export async function trainValueEncoder(
  gpu: Gpu,
  values: readonly Tensor[],
  { bits, steps = 3000, batch = 4096, seed = 1, seeds = 1, onProgress, signal }: TrainValueOptions,
): Promise<ValueEncoder> {
  const features = values[0]?.shape[1] ?? 0, dims = { features, bits }, arrays: ValueArrays[] = [];
  for (const [layer, { shape, label }] of values.entries()) {
    if (shape.length !== 2 || shape[1] !== features || shape[0]! < 1) {
      throw new TypeError(
        `Cannot train value codecs as every layer must have [tokens][${features}] values: "${label}" of layer ` +
          `${layer} has [${shape}]`,
      );
    }
  }
  const size = Math.min(values.length, layersAtOnce(gpu, dims, batch));
  for (let first = 0; first < values.length; first += size) {
    const group = values.slice(first, first + size);
    const best: Result[] = [];
    for (let i = 0; i < seeds; i++) {
      using trainer = await ValueTrainer.create(gpu, group, dims, batch, (seed + i * SEED_STEP) >>> 0);
      for (let step = 0; step < steps;) {
        signal?.throwIfAborted();
        const end = Math.min(steps, step + REPORT_EVERY);
        for (; step < end; step++) {
          const commands = gpu.commands("value training");
          trainer.encode(commands, step, learningRate(step, steps));
          commands.submit();
        }
        const losses = await trainer.losses(), done = { step: i * steps + step, steps: seeds * steps };
        onProgress?.({ first, end: first + group.length, layers: values.length, ...done, losses });
      }
      for (const [layer, result] of (await judged(gpu, await trainer.arrays(), group)).entries()) {
        if (best[layer] === undefined || result.distortion < best[layer].distortion) best[layer] = result;
      }
    }
    arrays.push(...best.map((result) => result.arrays));
  }
  return await ValueEncoder.fromArrays(gpu, arrays);
}

/** A layer's codec and its distortion on the values that it was trained on. */
interface Result {
  readonly arrays: ValueArrays;
  readonly distortion: number;
}

async function judged(gpu: Gpu, arrays: readonly ValueArrays[], values: readonly Tensor[]): Promise<Result[]> {
  using encoder = await ValueEncoder.fromArrays(gpu, arrays);
  const out: Result[] = [];
  for (const [layer, own] of values.entries()) {
    out.push({ arrays: arrays[layer]!, distortion: await encoder.distortion(layer, own) });
  }
  return out;
}

/** Linear warm-up, then a cosine to 0. `step` counts from 0. */
export function learningRate(step: number, steps: number): number {
  if (step < WARM_UP) return RATE * (step + 1) / WARM_UP;
  return RATE * 0.5 * (1 + Math.cos(Math.PI * (step - WARM_UP) / (steps - WARM_UP)));
}

/**
 * Parts that a batch is cut into for the gradients of weights, which have few tiles of 128 x 128 to fill a GPU with.
 * It depends on one layer alone, so that grouping layers changes no sum. Pure.
 */
export function chooseGradientSlabs({ features, bits }: ValueDims, batch: number): number {
  const tiles = Math.ceil(features * bits / 128) * Math.ceil(features / 128);
  return Math.max(1, Math.min(8, Math.ceil(128 / tiles), Math.floor(batch / 64)));
}

/** How many layers train together: as many as fit in memory and bindings, at least one. */
function layersAtOnce(gpu: Gpu, dims: ValueDims, batch: number): number {
  const { hidden, outputs, codes, linear1, linear2, codebook } = valueWidths(dims);
  const count = linear1 + linear2 + codebook, slabs = chooseGradientSlabs(dims, batch);
  const perLayer = 4 * (batch * (2 * hidden + outputs + codes + 2 * dims.features) + (3 + slabs) * count);
  const largest = 4 * Math.max(batch * Math.max(hidden, outputs), slabs * count);
  return Math.max(1, Math.floor(Math.min(GROUP_BYTES / perLayer, gpu.maxBytes / largest)));
}

/** A trainer's memory: activations of a batch, parameters and gradients of all layers. */
function trainingTensors(gpu: Gpu, owned: DisposableStack, dims: ValueDims, layers: number, batch: number) {
  const { features } = dims, { linear1, linear2, codebook, folded, hidden, outputs, codes, words } = valueWidths(dims);
  const slabs = chooseGradientSlabs(dims, batch), count = layers * (linear1 + linear2 + codebook);
  const alloc = (label: string, shape: Shape, dtype: DType = "f32"): Tensor =>
    owned.use(gpu.alloc(`value training: ${label}`, dtype, shape));
  const rows = (label: string, width: number): Tensor => alloc(label, [layers, batch, width]);
  const parameters = alloc("parameters", [count]), gradients = alloc("gradients", [slabs, count]);
  const at2 = layers * linear1, at3 = at2 + layers * linear2;
  const slabsOf = (at: number, stride: number): Tensor => gradients.view(at, [(slabs - 1) * count + layers * stride]);
  return {
    parameters,
    linear1: parameters.view(0, [layers, linear1]),
    linear2: parameters.view(at2, [layers, linear2]),
    codebook: parameters.view(at3, [layers, codes, features]),
    gradients,
    ofLinear1: slabsOf(0, linear1),
    ofLinear2: slabsOf(at2, linear2),
    ofCodebook: slabsOf(at3, codebook),
    mean: alloc("mean", [count]),
    square: alloc("square", [count]),
    folded: alloc("folded linear1", [layers, folded]),
    scale: alloc("scale", [layers, features]),
    normed: rows("normed", features),
    stats: rows("stats", 4),
    hidden: rows("hidden", hidden),
    active: rows("active", hidden),
    logits: rows("logits", outputs),
    bits: rows("bits", codes),
    v: rows("sums of codewords", features),
    errors: rows("errors", 2),
    words: alloc("words", [layers * batch, words], "u32"),
    scales: alloc("scales", [layers * batch], "f16"),
  };
}

async function trainingKernels(gpu: Gpu, { features }: ValueDims, widths: ValueWidths) {
  const { hidden, outputs, codes } = widths;
  return {
    norm: await LayerNorm.create(gpu, features, { draw: true }),
    fold: await LayerNormFold.create(gpu, features, widths),
    linear1: await Gemm.create(gpu, { bT: true, bias: true }, hidden),
    gelu: await Gelu.create(gpu),
    linear2: await Gemm.create(gpu, { bT: true, bias: true }, outputs),
    choose: await GumbelBits.create(gpu),
    sum: await Gemm.create(gpu, {}, features),
    unitBack: await UnitNorm.create(gpu, features, true),
    sumBack: await Gemm.create(gpu, { bT: true }, codes),
    chooseBack: await GumbelBits.create(gpu, true),
    linear2Back: await Gemm.create(gpu, {}, hidden),
    geluBack: await Gelu.create(gpu, true),
    foldBack: await LayerNormFold.create(gpu, features, widths, true),
    ofLinear1: await Gemm.create(gpu, { aT: true, bias: true }, features),
    ofLinear2: await Gemm.create(gpu, { aT: true, bias: true }, hidden),
    ofCodebook: await Gemm.create(gpu, { aT: true }, features),
    adamw: await AdamW.create(gpu),
  };
}

/** What is measured of a layer's values before training. */
interface Channels {
  /** Mean magnitude of each channel, plus 1e-6. */
  readonly scale: Float32Array;
  /** Of all numbers, which the loss is divided by. */
  readonly variance: number;
}

/** One group of layers in training; {@linkcode trainValueEncoder} is made of it. Borrows the layers' values. */
export class ValueTrainer implements Disposable {
  readonly #owned = new DisposableStack();
  readonly #widths: ValueWidths;
  readonly tensors: ReturnType<typeof trainingTensors>;

  private constructor(
    readonly gpu: Gpu,
    readonly values: readonly Tensor[],
    readonly dims: ValueDims,
    readonly batch: number,
    readonly seed: number,
    readonly channels: readonly Channels[],
    readonly kernels: Awaited<ReturnType<typeof trainingKernels>>,
  ) {
    const layers = values.length;
    this.#widths = valueWidths(dims);
    this.tensors = trainingTensors(gpu, this.#owned, dims, layers, batch);
    channels.forEach(({ scale }, layer) => gpu.write(this.tensors.scale, scale, layer * scale.byteLength));
    gpu.write(this.tensors.parameters, initialParameters(dims, layers, seed));
  }

  /** Measures the values' channels, allocates, and draws the initial parameters. */
  static async create(
    gpu: Gpu,
    values: readonly Tensor[],
    dims: ValueDims,
    batch: number,
    seed: number,
  ): Promise<ValueTrainer> {
    const kernels = await trainingKernels(gpu, dims, valueWidths(dims)), sums = await ChannelSums.create(gpu);
    const channels: Channels[] = [];
    for (const tensor of values) channels.push(await measureChannels(gpu, sums, tensor));
    return new ValueTrainer(gpu, values, dims, batch, seed, channels, kernels);
  }

  /** Floating-point operations of a step's products. */
  get flops(): number {
    const { features } = this.dims, { hidden, outputs, codes } = this.#widths;
    return 2 * this.values.length * this.batch * (2 * features * hidden + 3 * hidden * outputs + 3 * codes * features);
  }

  /** Encodes one step: `step` counts from 0. */
  encode(commands: Commands, step: number, rate: number): void {
    const { parameters, gradients, mean, square } = this.tensors;
    this.encodeGradients(commands, step);
    this.kernels.adamw.encode(commands, { parameters, gradients, mean, square }, {
      step: step + 1,
      rate,
      decay: DECAY,
      beta1: BETA1,
      beta2: BETA2,
    });
  }

  /** Encodes the forward and backward pass of a step, which leaves parameters as they are. */
  encodeGradients(commands: Commands, step: number): void {
    const { kernels: k, tensors: t, batch: tokens, seed } = this, layers = this.values.length, { features } = this.dims;
    const { hidden, outputs, codes, symbols, linear1, linear2, codebook } = this.#widths;
    const of = { layers, tokens }, symbolsOf = { ...of, symbols }, rows = { batch: layers, m: tokens };
    const { normed, stats, scale, active, logits, bits, words, v, scales, errors } = t;

    this.values.forEach((values, layer) => {
      const weight = 2 / (tokens * features * this.channels[layer]!.variance);
      k.norm.encode(commands, { values, scale, normed, stats }, of, { layer, seed, step, weight });
    });
    k.fold.encode(commands, { linear: t.linear1, folded: t.folded }, layers);
    k.linear1.encode(commands, { a: normed, b: t.folded, c: t.hidden }, { ...rows, n: hidden, k: features });
    k.gelu.encode(commands, { x: t.hidden, y: active });
    k.linear2.encode(commands, { a: active, b: t.linear2, c: logits }, { ...rows, n: outputs, k: hidden });
    k.choose.encode(commands, { logits, bits, words }, symbolsOf, { seed, step });
    k.sum.encode(commands, { a: bits, b: t.codebook, c: v }, { ...rows, n: features, k: codes });

    // From here on each activation turns into its gradient, once the last product that needs it has run.
    const slabs = { count: t.gradients.shape[0]!, apart: t.gradients.shape[1]! };
    const weights = (m: number, n: number, stride: number): GemmDims => ({
      batch: layers,
      m,
      n,
      k: tokens,
      splits: { ...slabs, stride },
    });
    k.unitBack.encode(commands, { normed, stats, scale, v, scales, errors }, of);
    k.ofCodebook.encode(commands, { a: bits, b: v, c: t.ofCodebook }, weights(codes, features, codebook));
    k.sumBack.encode(commands, { a: v, b: t.codebook, c: bits }, { ...rows, n: codes, k: features });
    k.chooseBack.encode(commands, { logits, bits, words }, symbolsOf, { seed, step });
    k.ofLinear2.encode(commands, { a: logits, b: active, c: t.ofLinear2 }, weights(outputs, hidden, linear2));
    const back = { ...rows, n: hidden, k: outputs, bStride: linear2 };
    k.linear2Back.encode(commands, { a: logits, b: t.linear2, c: active }, back);
    k.geluBack.encode(commands, { x: t.hidden, y: active });
    k.ofLinear1.encode(commands, { a: active, b: normed, c: t.ofLinear1 }, weights(hidden, features, linear1));
    k.foldBack.encode(commands, { linear: t.linear1, folded: t.ofLinear1 }, layers, slabs);
  }

  /** Mean squared error over variance in the last step's batch, by layer. Waits for the GPU. */
  async losses(): Promise<Float64Array> {
    const errors = await this.gpu.readF32(this.tensors.errors), { batch: tokens } = this;
    return Float64Array.from(this.channels, ({ variance }, layer) => {
      let sum = 0;
      for (let t = 0; t < tokens; t++) sum += errors[2 * (layer * tokens + t)]!;
      return sum / (tokens * this.dims.features * variance);
    });
  }

  /** The layers' arrays as they are now. */
  async arrays(): Promise<ValueArrays[]> {
    const { kernels, tensors: t, dims } = this, layers = this.values.length, { folded } = this.#widths;
    const commands = this.gpu.commands("value training: result");
    kernels.fold.encode(commands, { linear: t.linear1, folded: t.folded }, layers);
    commands.submit();
    const first = await this.gpu.readF32(t.folded), second = await this.gpu.readF32(t.linear2);
    const codebook = await this.gpu.readF32(t.codebook), shapes = valueArrayShapes(dims);
    const { linear2, codebook: codebookSize, outputs, hidden } = this.#widths;
    return this.channels.map(({ scale }, layer) => {
      const linear1 = first.subarray(layer * folded, (layer + 1) * folded), weight1 = hidden * dims.features;
      const last = second.subarray(layer * linear2, (layer + 1) * linear2), weight2 = outputs * hidden;
      const data: Record<keyof ValueArrays, Float32Array> = {
        scale,
        "linear1.weight": linear1.slice(0, weight1),
        "linear1.bias": linear1.slice(weight1),
        "linear2.weight": last.slice(0, weight2),
        "linear2.bias": last.slice(weight2),
        codebook: codebook.slice(layer * codebookSize, (layer + 1) * codebookSize),
      };
      return Object.fromEntries(
        VALUE_ARRAYS.map((name) => [name, { shape: shapes[name], data: data[name] }]),
      ) as unknown as ValueArrays;
    });
  }

  /** Frees what training took; the values stay. */
  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}

async function measureChannels(gpu: Gpu, kernel: ChannelSums, values: Tensor): Promise<Channels> {
  const [rows, features] = values.shape as [number, number], chunk = chooseChannelChunk(rows);
  const shape = channelSumsShapes(rows, features, Math.ceil(rows / chunk)).out;
  using out = gpu.alloc("channel sums", "f32", shape);
  const commands = gpu.commands("channel sums");
  kernel.encode(commands, { values, out }, chunk);
  commands.submit();
  const parts = await gpu.readF32(out), magnitude = new Float64Array(features);
  let sum = 0, square = 0;
  for (let i = 0; i < parts.length; i += 4) {
    magnitude[i / 4 % features]! += parts[i]!;
    [sum, square] = [sum + parts[i + 1]!, square + parts[i + 2]!];
  }
  const count = rows * features, variance = square / count - (sum / count) ** 2;
  if (!(variance > 0)) {
    throw new RangeError(`Cannot train a value codec as "${values.label}" must vary: its variance is ${variance}`);
  }
  return { scale: Float32Array.from(magnitude, (total) => total / rows + EPS), variance };
}

/** PyTorch's default initialization of linear layers and layer norm, N(0, 1) for the codebook; alike in all layers. */
function initialParameters(dims: ValueDims, layers: number, seed: number): Float32Array {
  const { features } = dims, { hidden, folded, linear1, linear2, codebook } = valueWidths(dims), rng = new Rng(seed);
  const uniform = (count: number, inputs: number): Float32Array =>
    Float32Array.from({ length: count }, () => (2 * rng.uniform() - 1) / Math.sqrt(inputs));
  const first = new Float32Array(linear1), second = uniform(linear2, hidden);
  first.set(uniform(folded, features));
  first.fill(1, folded, folded + features); // the gain; the offset is 0
  const third = Float32Array.from({ length: codebook }, () => rng.normal());
  const out = new Float32Array(layers * (linear1 + linear2 + codebook));
  let at = 0;
  for (const part of [first, second, third]) {
    for (let layer = 0; layer < layers; layer++, at += part.length) out.set(part, at);
  }
  return out;
}
