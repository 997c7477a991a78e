/**
 * A model's weights on the GPU, in the precision of their file.
 *
 * @module
 */
import type { LlamaConfig } from "../core/model.ts";
import { ropeFrequencies } from "../core/rope.ts";
import { llamaFiles } from "../files/llama_config.ts";
import { type ModelFiles, readFloats, readRows, type TensorFile } from "../files/model_files.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { tokenGroup } from "../kernels/matmul_texels.ts";
import { WeightMatrix } from "../kernels/weights.ts";

/** A matrix and the column of the output that its rows begin at. */
export interface Placed {
  readonly matrix: WeightMatrix;
  readonly column: number;
}

/** One layer. Matrices that share their input are stacked in one where their types allow. */
export interface LayerWeights {
  readonly attnNorm: Tensor;
  readonly qkv: readonly Placed[];
  readonly o: WeightMatrix;
  readonly ffnNorm: Tensor;
  /** The gate over the up matrix, in one `paired` matrix or in two. */
  readonly gateUp: readonly Placed[];
  readonly down: WeightMatrix;
}

/** A whole model. */
export interface Weights extends Disposable {
  readonly embed: WeightMatrix;
  readonly layers: readonly LayerWeights[];
  readonly norm: Tensor;
  /** The embedding itself where they are tied. */
  readonly output: WeightMatrix;
  /** Rotary frequencies in radians a position, `[P]`. */
  readonly frequencies: Float64Array;
}

/** What {@linkcode loadWeights} reports and heeds. */
export interface LoadWeightsOptions {
  onProgress?: (progress: { phase: "weights"; loaded: number; total: number }) => void;
  signal?: AbortSignal;
}

/** Reads a model's tensors in pieces of a few MiB, checks them and uploads them. */
export async function loadWeights(
  gpu: Gpu,
  files: ModelFiles,
  config: LlamaConfig,
  options: LoadWeightsOptions = {},
): Promise<Weights> {
  const named = llamaFiles(files, config);
  using owned = new DisposableStack();
  const loader = new Loader(
    gpu,
    config,
    owned,
    options,
    [...files.tensors.values()].reduce((sum, t) => sum + t.byteLength, 0),
    gpu.texels && [config.hidden, config.qHeads * config.headDim, config.ffn].every((cols) => tokenGroup(cols) > 0),
  );
  const { matrix, stacked, floats } = loader;
  const embed = await matrix.call(loader, "token embedding", [named.embed]);
  const layers: LayerWeights[] = [];
  for (const [i, layer] of named.layers.entries()) {
    const label = (name: string): string => `layer ${i} ${name}`;
    layers.push({
      attnNorm: await floats.call(loader, label("attention norm"), layer.attnNorm),
      qkv: await stacked.call(loader, label("q, k, v"), [layer.q, layer.k, layer.v], {
        rotary: new Set([layer.q, layer.k]),
      }),
      o: await matrix.call(loader, label("o"), [layer.o]),
      ffnNorm: await floats.call(loader, label("feed-forward norm"), layer.ffnNorm),
      gateUp: await stacked.call(loader, label("gate, up"), [layer.gate, layer.up], { paired: true }),
      down: await matrix.call(loader, label("down"), [layer.down]),
    });
  }
  const norm = await floats.call(loader, "norm", named.norm);
  const output = named.output ? await matrix.call(loader, "output", [named.output]) : embed;
  const frequencies = ropeFrequencies(config, named.ropeFreqs && await readFloats(named.ropeFreqs));
  await gpu.settle();
  const kept = owned.move();
  return { embed, layers, norm, output, frequencies, [Symbol.dispose]: () => kept.dispose() };
}

interface StackOptions {
  readonly paired?: boolean;
  /** Tensors whose rows are rotary pairs, which GGUF keeps side by side. */
  readonly rotary?: ReadonlySet<TensorFile>;
}

/** Uploads tensors and keeps count. */
class Loader {
  #loaded = 0;

  constructor(
    readonly gpu: Gpu,
    readonly config: LlamaConfig,
    readonly owned: DisposableStack,
    readonly options: LoadWeightsOptions,
    readonly total: number,
    readonly texels: boolean,
  ) {}

  /** A vector of f32. */
  async floats(label: string, tensor: TensorFile): Promise<Tensor> {
    const data = await readFloats(tensor);
    this.#progress(tensor.byteLength);
    return this.owned.use(this.gpu.upload(label, "f32", [data.length], data));
  }

  /** Tensors of one type and width, on top of each other in one matrix. */
  async matrix(
    label: string,
    tensors: readonly TensorFile[],
    { paired, rotary }: StackOptions = {},
  ): Promise<WeightMatrix> {
    const [{ type, shape }] = tensors as [TensorFile], rows = tensors.reduce((sum, t) => sum + t.shape[0]!, 0);
    const dims = { type, rows, cols: shape[1]! }, { gpu, texels } = this;
    const matrix = this.owned.use(WeightMatrix.alloc(gpu, label, dims, { paired, texels }));
    await this.gpu.settle(); // memory refused is told before gigabytes are read in vain
    let first = 0;
    for (const tensor of tensors) {
      const { headDim, interleavedRope } = this.config, permuted = interleavedRope && rotary?.has(tensor);
      for await (const { row, bytes } of readRows(tensor, permuted ? headDim : 1)) {
        this.options.signal?.throwIfAborted();
        matrix.write(first + row, permuted ? halfSplit(bytes, tensor.byteLength / tensor.shape[0]!, headDim) : bytes);
        this.#progress(bytes.length);
      }
      first += tensor.shape[0]!;
    }
    return matrix;
  }

  /** Tensors with one input: neighbours of the same type are stacked. */
  async stacked(label: string, tensors: readonly TensorFile[], options: StackOptions): Promise<Placed[]> {
    const groups: TensorFile[][] = [];
    for (const tensor of tensors) {
      if (groups.at(-1)?.[0]?.type === tensor.type) groups.at(-1)!.push(tensor);
      else groups.push([tensor]);
    }
    const placed: Placed[] = [];
    let column = 0;
    for (const group of groups) {
      const paired = options.paired && group.length === 2;
      placed.push({ column, matrix: await this.matrix(label, group, { ...options, paired }) });
      column += placed.at(-1)!.matrix.rows;
    }
    return placed;
  }

  #progress(bytes: number): void {
    this.#loaded += bytes;
    this.options.onProgress?.({ phase: "weights", loaded: this.#loaded, total: this.total });
  }
}

/** Rows of whole heads with rotary pairs side by side, as GGUF has them, put half a head apart. */
function halfSplit(bytes: Uint8Array<ArrayBuffer>, rowBytes: number, headDim: number): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(bytes.length), pairs = headDim / 2;
  for (let row = 0; row * rowBytes < bytes.length; row++) {
    const head = row - row % headDim, inHead = row % headDim, to = head + (inHead >> 1) + (inHead & 1) * pairs;
    out.set(bytes.subarray(row * rowBytes, (row + 1) * rowBytes), to * rowBytes);
  }
  return out;
}
