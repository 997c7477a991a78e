import type { Gpu } from "./gpu.ts";
import type { Tensor } from "./tensor.ts";

/** Bytes between two dispatches' uniforms: the alignment that every WebGPU device accepts. */
const SLOT = 256;
/** Dispatches that may be encoded and not yet submitted. */
const SLOTS = 8192;

/** Uniform parameters of all dispatches: written on the CPU as they are encoded, uploaded once a submit. */
export class ParamsRing {
  readonly buffer: GPUBuffer;
  readonly words: Uint32Array<ArrayBuffer> = new Uint32Array(SLOT * SLOTS / 4);
  /** The same words as numbers. */
  readonly floats: Float32Array = new Float32Array(this.words.buffer);
  /** Slots handed out so far. */
  next = 0;

  constructor(readonly device: GPUDevice) {
    const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
    this.buffer = device.createBuffer({ label: "params", size: SLOT * SLOTS, usage });
  }

  /** Byte offset of a fresh slot. */
  take(): number {
    return (this.next++ % SLOTS) * SLOT;
  }

  /** Uploads the slots from `first` to the newest. */
  flush(first: number): void {
    if (this.next - first > SLOTS) {
      throw new RangeError(`Cannot submit ${this.next - first} dispatches at once as the limit is ${SLOTS}`);
    }
    for (let slot = first; slot < this.next;) {
      const at = slot % SLOTS, count = Math.min(this.next - slot, SLOTS - at);
      this.device.queue.writeBuffer(this.buffer, at * SLOT, this.words.buffer, at * SLOT, count * SLOT);
      slot += count;
    }
  }

  destroy(): void {
    this.buffer.destroy();
  }
}

/** One submit's worth of work: dispatches share a compute pass, copies end it and the next dispatch begins another. */
export class Commands {
  readonly #encoder: GPUCommandEncoder;
  readonly #firstSlot: number;
  #pass: GPUComputePassEncoder | undefined;
  #timestamps: GPUComputePassTimestampWrites | undefined;
  #finished: GPUCommandBuffer | undefined;

  constructor(readonly gpu: Gpu, readonly label = "commands") {
    this.#encoder = gpu.device.createCommandEncoder({ label });
    this.#firstSlot = gpu.ring.next;
  }

  /** The open compute pass. */
  get pass(): GPUComputePassEncoder {
    return this.#pass ??= this.#encoder.beginComputePass({ label: this.label, timestampWrites: this.#timestamps });
  }

  /** The encoder, between passes. */
  get encoder(): GPUCommandEncoder {
    this.#pass?.end();
    this.#pass = undefined;
    return this.#encoder;
  }

  /** Copies `byteLength` bytes between tensors. */
  copy(
    source: Tensor,
    target: Tensor,
    byteLength: number = source.byteLength,
    sourceOffset = 0,
    targetOffset = 0,
  ): void {
    const from = source.byteOffset + sourceOffset, to = target.byteOffset + targetOffset;
    this.encoder.copyBufferToBuffer(source.buffer, from, target.buffer, to, byteLength);
  }

  /** Has the next pass write its begin and end times. */
  stamp(timestamps: GPUComputePassTimestampWrites | undefined): void {
    void this.encoder;
    this.#timestamps = timestamps;
  }

  /** Closes the list, ahead of {@linkcode submit}: what validation costs need not keep the GPU waiting. */
  finish(): void {
    this.gpu.check();
    this.gpu.device.pushErrorScope("validation"); // an uncaptured error would arrive a turn of the event loop later
    this.#finished = this.encoder.finish();
    this.gpu.watch("record " + this.label);
  }

  /** Sends everything to the GPU. */
  submit(): void {
    if (!this.#finished) this.finish();
    const { device, ring } = this.gpu;
    device.pushErrorScope("validation");
    ring.flush(this.#firstSlot);
    device.queue.submit([this.#finished!]);
    this.gpu.watch("run " + this.label);
  }
}
