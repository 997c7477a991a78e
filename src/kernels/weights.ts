import { isPacked, repackRows, weightBytes, weightLayout } from "../core/weight_layout.ts";
import { type WeightDims, weightShapes } from "../core/shapes.ts";
import { GpuMemoryError } from "../core/errors.ts";
import type { WeightType } from "../core/model.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { maxTexelBytes, type Texels } from "../gpu/texels.ts";

/** Bytes that go to the GPU at once: the fastest size, and little staging memory (deno 2.9). */
const CHUNK_BYTES = 4 * 2 ** 20;
/** Rows of a slice are a multiple of this. */
const SLICE_ROWS = 64;

/**
 * Rows `[row, row + rows)` of a matrix, in buffers or in texels. In a paired matrix half of `rows`, and then the
 * partners of those.
 */
export interface WeightSlice<Store = Tensor | Texels> {
  readonly row: number;
  readonly rows: number;
  readonly data: Store;
  readonly scales: Store;
}

/** Options of {@linkcode WeightMatrix.alloc}. */
export interface WeightMatrixOptions {
  /** Keeps row r of the first half in one slice with row r of the second: for a gate over its up matrix. */
  paired?: boolean;
  /** Keeps it in texels, which `matmul_texels` reads, and `embed`. */
  texels?: boolean;
  /** Most bytes of a slice's data, by default what the device binds. */
  maxBytes?: number;
}

/**
 * A matrix `[rows][cols]` of any weight type, or several of one type and width on top of each other (Q, K and V; gate
 * and up), cut by rows where one binding would not hold it. Owns its tensors.
 */
export class WeightMatrix implements Disposable {
  /** Scales next to which a neighbour of the same 4-byte word may be written later, by slice and place. */
  readonly #edges: Map<number, number>[];

  private constructor(
    readonly gpu: Gpu,
    readonly type: WeightType,
    readonly rows: number,
    readonly cols: number,
    readonly paired: boolean,
    readonly texels: boolean,
    readonly slices: readonly WeightSlice[],
  ) {
    this.#edges = slices.map(() => new Map());
  }

  /** Allocates a matrix of zeros. Throws `GpuMemoryError` where the device cannot bind a few rows at once. */
  static alloc(gpu: Gpu, label: string, dims: WeightDims, options: WeightMatrixOptions = {}): WeightMatrix {
    const { type, rows, cols } = dims, { paired = false, texels = false } = options;
    const { maxBytes = texels ? Math.min(gpu.maxBytes, maxTexelBytes(gpu, "rgba32uint")) : gpu.maxBytes } = options;
    const { dataBytes } = weightLayout(type, cols), halves = paired ? 2 : 1, span = rows / halves;
    if (!Number.isInteger(span)) throw new RangeError(`Cannot pair ${rows} rows as their number must be even`);
    let most = Math.floor(maxBytes / (dataBytes * halves));
    if (most < span) most -= most % SLICE_ROWS;
    if (most <= 0) {
      throw new GpuMemoryError(
        `Cannot cut '${label}' into slices as ${SLICE_ROWS} of its rows exceed the ${maxBytes} bytes of one binding`,
      );
    }
    const slices: WeightSlice[] = [];
    for (let row = 0; row < span; row += most) {
      const count = halves * Math.min(most, span - row), shapes = weightShapes({ type, rows: count, cols });
      const bytes = weightBytes(type, count, cols), of = `${label} scales`;
      slices.push({
        row,
        rows: count,
        data: texels
          ? gpu.allocTexels(label, "rgba32uint", shapes.weights, bytes.data)
          : gpu.alloc(label, "u32", shapes.weights),
        scales: texels
          ? gpu.allocTexels(of, "r32uint", shapes.scales, bytes.scales)
          : gpu.alloc(of, "f16", shapes.scales),
      });
    }
    return new WeightMatrix(gpu, type, rows, cols, paired, texels, slices);
  }

  /** Bytes on the GPU. */
  get bytes(): number {
    return this.slices.reduce((sum, { data, scales }) => sum + data.byteLength + scales.byteLength, 0);
  }

  /** Writes whole rows, as a file has them, from row `row` on. Pieces may come in any order. */
  write(row: number, file: Uint8Array): void {
    const { fileBytes, dataBytes } = weightLayout(this.type, this.cols), count = file.byteLength / fileBytes;
    if (!Number.isInteger(count) || row < 0 || row + count > this.rows) {
      throw new RangeError(
        `Cannot write ${file.byteLength} bytes at row ${row} as a matrix of ${this.rows} rows of ${fileBytes} bytes ` +
          "takes whole rows within it",
      );
    }
    const most = Math.max(1, Math.floor(CHUNK_BYTES / dataBytes));
    for (let done = 0; done < count;) {
      const { slice, at, left } = this.#locate(row + done), rows = Math.min(left, most, count - done);
      this.#writeRows(slice, at, file.subarray(done * fileBytes, (done + rows) * fileBytes), rows);
      this.gpu.device.queue.submit([]); // frees the staging memory as it goes
      done += rows;
    }
  }

  /** The slice of a row, the row's place in it, and how many of the following rows follow there. */
  #locate(row: number): { slice: number; at: number; left: number } {
    const halves = this.paired ? 2 : 1, span = this.rows / halves, half = Math.floor(row / span);
    const slice = this.slices.findLastIndex((s) => s.row <= row - half * span),
      { row: first, rows } = this.slices[slice]!;
    const at = row - half * span - first, held = rows / halves;
    return { slice, at: half * held + at, left: held - at };
  }

  #writeRows(slice: number, at: number, file: Uint8Array, rows: number): void {
    const { type, cols, gpu } = this, { dataBytes, scales } = weightLayout(type, cols), { data } = this.slices[slice]!;
    if (isPacked(type, cols)) return gpu.write(data, file, at * dataBytes);
    const scratch = takeScratch(rows * dataBytes + 2 * (rows * scales + 2));
    const bytes = new Uint8Array(scratch, 0, rows * dataBytes);
    const halves = new Uint16Array(scratch, rows * dataBytes, rows * scales + 2);
    repackRows(type, cols, file, bytes, halves.subarray(1));
    gpu.write(data, bytes, at * dataBytes);
    if (scales > 0) this.#writeScales(slice, at * scales, halves);
  }

  /**
   * Writes scales from `first` on; `halves` holds them with a place to spare at either end, since whole words of two
   * are written: a word that this piece has half of gets its other half from the piece that has been there.
   */
  #writeScales(slice: number, first: number, halves: Uint16Array): void {
    const edges = this.#edges[slice]!, end = first + halves.length - 2;
    if (first % 2 === 1) {
      halves[0] = edges.get(first - 1) ?? 0;
      edges.set(first, halves[1]!);
    }
    if (end % 2 === 1) {
      halves[halves.length - 1] = edges.get(end) ?? 0;
      edges.set(end - 1, halves[halves.length - 2]!);
    }
    const words = halves.subarray(1 - first % 2, halves.length - 1 + end % 2);
    this.gpu.write(this.slices[slice]!.scales, words, 2 * (first - first % 2));
  }

  [Symbol.dispose](): void {
    for (const { data, scales } of this.slices) {
      data[Symbol.dispose]();
      scales[Symbol.dispose]();
    }
  }
}

let scratch = new ArrayBuffer(0);

/** Memory for a repacked chunk, the same one every time. */
function takeScratch(byteLength: number): ArrayBuffer {
  if (scratch.byteLength < byteLength) scratch = new ArrayBuffer(byteLength);
  return scratch;
}

/** The slices of a matrix. Throws `TypeError` unless a kernel for `type`, in texels or in buffers, can read it. */
export function expectWeights(action: string, weights: WeightMatrix, type: WeightType): readonly WeightSlice<Tensor>[];
export function expectWeights(
  action: string,
  weights: WeightMatrix,
  type: WeightType,
  texels: boolean,
): readonly WeightSlice[];
export function expectWeights(
  action: string,
  weights: WeightMatrix,
  type: WeightType,
  texels = false,
): readonly WeightSlice[] {
  if (weights.type !== type) {
    throw new TypeError(`Cannot ${action} as this kernel is for ${type} weights: current type is ${weights.type}`);
  }
  if (weights.texels !== texels) {
    const [want, found] = texels ? ["texels", "buffers"] : ["buffers", "texels"];
    throw new TypeError(`Cannot ${action} as this kernel reads weights in ${want}: these are in ${found}`);
  }
  return weights.slices;
}

/** The part of a kernel that reads weights of a type. */
export function weightPart(type: WeightType): string {
  return `weight_${type.toLowerCase()}`;
}

/** The part that reads the words of weights. */
export function weightStore(texels: boolean): string {
  return texels ? "weights_texels" : "weights_buffer";
}
