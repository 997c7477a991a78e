import type { Gpu } from "./gpu.ts";
import { type Shape, takeId } from "./tensor.ts";

/** How texels hold words of four bytes: four each, or one. */
export type TexelFormat = "rgba32uint" | "r32uint";

/** Texels of a row, as `wgsl/parts/weights_texels.wgsl` counts them. */
const WIDTH = 1024;

/** Bytes of a texel. */
export const TEXEL_BYTES: Readonly<Record<TexelFormat, number>> = { rgba32uint: 16, r32uint: 4 };

/** The most bytes that one texture holds on a device. */
export function maxTexelBytes(gpu: Gpu, format: TexelFormat): number {
  return WIDTH * gpu.limits.maxTextureDimension2D * TEXEL_BYTES[format];
}

/**
 * Bytes that kernels only read, one after the other in the texels of a texture. A software driver reads buffers lane by
 * lane, and gathers texels for all lanes at once.
 */
export class Texels implements Disposable {
  readonly id: number = takeId();
  readonly texture: GPUTexture;
  /** As allocated: whole rows of texels. */
  readonly byteLength: number;
  readonly resource: GPUTextureView;
  #owner: Gpu | undefined;

  /** Made by {@linkcode Gpu.allocTexels}. */
  constructor(owner: Gpu, readonly label: string, readonly format: TexelFormat, readonly shape: Shape, bytes: number) {
    const height = Math.max(1, Math.ceil(bytes / (WIDTH * TEXEL_BYTES[format])));
    this.texture = owner.device.createTexture({
      label,
      format,
      size: [WIDTH, height],
      usage: GPUTextureUsage.STORAGE_BINDING | GPUTextureUsage.COPY_SRC | GPUTextureUsage.COPY_DST,
    });
    this.byteLength = WIDTH * height * TEXEL_BYTES[format];
    this.resource = this.texture.createView();
    this.#owner = owner;
  }

  /** Writes whole texels, `offset` bytes from the start. */
  write({ buffer, byteOffset, byteLength }: ArrayBufferView, offset: number): void {
    const size = TEXEL_BYTES[this.format], { queue } = this.#owner!.device;
    const data = new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
    if (offset % size !== 0 || byteLength % size !== 0 || offset + byteLength > this.byteLength) {
      throw new RangeError(
        `Cannot write ${byteLength} bytes at byte ${offset} of '${this.label}' as it has ${this.byteLength}, ` +
          `in texels of ${size}`,
      );
    }
    const end = (offset + byteLength) / size;
    for (let at = offset / size, from = 0; at < end;) { // the rest of a row, whole rows, the start of a row
      const x = at % WIDTH,
        width = Math.min(WIDTH - x, end - at),
        rows = width < WIDTH ? 1 : Math.floor((end - at) / WIDTH);
      const target = { texture: this.texture, origin: [x, Math.floor(at / WIDTH)] };
      const layout = { offset: from, bytesPerRow: width * size };
      queue.writeTexture(target, data, layout, [width, rows]);
      at += width * rows;
      from += width * rows * size;
    }
  }

  [Symbol.dispose](): void {
    this.#owner?.release(this);
    this.#owner = undefined;
  }
}
