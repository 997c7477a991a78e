import type { Gpu } from "./gpu.ts";

/** How a tensor's elements are stored. `f16` is bound to shaders as packed pairs or as `f16`. */
export type DType = "f32" | "f16" | "u32";

/** Axes, outermost first. */
export type Shape = readonly number[];

/** Bytes of one element. */
export const ELEMENT_BYTES: Readonly<Record<DType, number>> = { f32: 4, f16: 2, u32: 4 };

/** Elements of a shape. */
export function elements(shape: Shape): number {
  return shape.reduce((product, axis) => product * axis, 1);
}

let nextId = 0;

/** An identity that no tensor, view or texels have had: the key of the bind-group caches. */
export function takeId(): number {
  return nextId++;
}

/** A typed, shaped range of a GPU buffer. The tensor that `alloc` made owns the buffer; its views borrow it. */
export class Tensor implements Disposable {
  readonly id: number = takeId();
  readonly byteLength: number;
  #owner: Gpu | undefined;

  constructor(
    readonly label: string,
    readonly dtype: DType,
    readonly shape: Shape,
    readonly buffer: GPUBuffer,
    readonly byteOffset = 0,
    owner?: Gpu,
  ) {
    this.byteLength = elements(shape) * ELEMENT_BYTES[dtype];
    this.#owner = owner;
  }

  /** What kernels bind: whole 16-byte units, so that it may be read as vec4 up to its last element. */
  get resource(): GPUBufferBinding {
    const { buffer, byteOffset: offset, byteLength } = this;
    return { buffer, offset, size: Math.min(Math.max(16, Math.ceil(byteLength / 16) * 16), buffer.size - offset) };
  }

  /** Part of this tensor, `offset` elements in; the byte offset must be a multiple of 256, as bindings demand. */
  view(offset: number, shape: Shape, dtype: DType = this.dtype): Tensor {
    const at = offset * ELEMENT_BYTES[this.dtype], length = elements(shape) * ELEMENT_BYTES[dtype];
    if (at % 256 !== 0 || at + length > this.byteLength) {
      throw new RangeError(
        `Cannot view ${length} bytes at byte ${at} of '${this.label}' as the offset must be a multiple of 256 and ` +
          `the end at most ${this.byteLength}`,
      );
    }
    return new Tensor(this.label, dtype, shape, this.buffer, this.byteOffset + at);
  }

  /** Frees the buffer, if this tensor owns it. */
  [Symbol.dispose](): void {
    this.#owner?.release(this);
    this.#owner = undefined;
  }
}
