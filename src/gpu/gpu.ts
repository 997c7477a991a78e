/**
 * The device: what it grants, its memory, its errors, and the way bytes come back.
 *
 * @module
 */
import { DeviceLostError, GpuMemoryError, GpuUnavailableError, ShaderError } from "../core/errors.ts";
import { Commands, ParamsRing } from "./commands.ts";
import { bindingsOf, compose, type Constant } from "./compose.ts";
import { type DType, ELEMENT_BYTES, elements, type Shape, Tensor } from "./tensor.ts";
import { type TexelFormat, Texels } from "./texels.ts";
import { sources } from "./wgsl.gen.ts";

/** What the project asks for where it exists; `subgroups` is granted by Deno though `adapter.features` hides it. */
const WISHES = ["subgroups", "shader-f16", "timestamp-query"] as const;

const INSTALL = "install a Vulkan driver (Debian: `apt-get install mesa-vulkan-drivers` runs WebGPU on the CPU)";

/** Options of {@linkcode Gpu.create}. */
export interface GpuOptions {
  /** A device of the caller's own. It is used as it is and not destroyed on dispose. */
  device?: GPUDevice;
  /** `false` keeps every kernel on its text without subgroups. */
  subgroups?: boolean;
  /** `false` keeps weights in buffers on a CPU too, as on a GPU. */
  texels?: boolean;
}

/** Plain data as a GPU stores it. */
export type Data = Float32Array | Uint32Array | Int32Array | Uint16Array | Uint8Array;

/** A compiled kernel: shared by everything that uses the same text. */
export interface Compiled {
  readonly label: string;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

const BUFFER_TYPES = { read: "read-only-storage", write: "storage", uniform: "uniform" } as const;

/** Owns the device and the compiled pipelines. Disposing it destroys the device that it made. */
export class Gpu implements Disposable {
  /** Bytes of every live allocation. */
  bytes = 0;
  readonly ring: ParamsRing;
  /** True where weights belong in textures: on a CPU. */
  readonly texels: boolean;
  readonly #pipelines = new Map<string, Promise<Compiled>>();
  readonly #pending = new Set<Promise<unknown>>();
  #error: Error | undefined;
  #fence: Staging | undefined;
  #disposed = false;

  private constructor(
    readonly device: GPUDevice,
    readonly description: string,
    readonly subgroups: boolean,
    readonly ownsDevice: boolean,
    texels: boolean,
  ) {
    this.texels = texels && this.isFallback && speaks("readonly_and_readwrite_storage_textures");
    this.ring = new ParamsRing(device);
    device.addEventListener("uncapturederror", (event) => {
      const { error } = event as unknown as { error: GPUError };
      this.fail(new Error(`The GPU reported an error: ${error.message}`));
    });
    device.lost.then(({ message }) => {
      if (!this.#disposed) this.fail(new DeviceLostError(`The GPU device was lost${message ? `: ${message}` : ""}`));
    });
  }

  /** Opens the machine's best adapter with every limit it offers, or wraps the caller's own device. */
  static async create({ device, subgroups = true, texels = true }: GpuOptions = {}): Promise<Gpu> {
    if (device) {
      const granted = subgroups && device.features.has("subgroups") && await sums(device);
      return new Gpu(device, device.adapterInfo?.description || "the caller's device", granted, false, texels);
    }
    const adapter = await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" });
    if (!adapter) throw new GpuUnavailableError(`Cannot use the GPU as no WebGPU adapter was found: ${INSTALL}`);
    const { info } = adapter;
    if (isOpenGl(adapter)) {
      throw new GpuUnavailableError(
        `Cannot use the GPU as WebGPU found OpenGL alone (${info.description}), which takes minutes for seconds: ${INSTALL}, ` +
          `or set DENO_WEBGPU_BACKEND=vulkan if there is one`,
      );
    }
    const opened = await openDevice(adapter);
    const granted = subgroups && opened.features.has("subgroups") && await sums(opened);
    return new Gpu(opened, info.description || info.vendor || "unnamed adapter", granted, true, texels);
  }

  /** True where a CPU stands in for a GPU. */
  get isFallback(): boolean {
    return this.device.adapterInfo?.isFallbackAdapter ?? false;
  }

  /** True where a lane's reads should serve others, told by subgroups: on a CPU, whose lanes read one after the other. `wgsl/parts/told.wgsl` takes subgroups of 8 or 16. */
  get lanesTell(): boolean {
    return this.isFallback && this.subgroups && [8, 16].includes(this.subgroupLanes);
  }

  /** True where shaders may use `f16` arithmetic. */
  get f16(): boolean {
    return this.device.features.has("shader-f16");
  }

  /** True where shaders may multiply packed bytes: `dot4I8Packed`. */
  get packedDot(): boolean {
    return speaks("packed_4x8_integer_dot_product");
  }

  /** Most lanes of a subgroup: as many as any GPU has, where the device does not say. */
  get subgroupLanes(): number {
    return this.device.adapterInfo?.subgroupMaxSize || 128;
  }

  /** True where passes can be timed on the GPU. */
  get timestamps(): boolean {
    return this.device.features.has("timestamp-query");
  }

  get limits(): GPUSupportedLimits {
    return this.device.limits;
  }

  /** The most bytes that one binding may have. */
  get maxBytes(): number {
    return Math.min(this.limits.maxStorageBufferBindingSize, this.limits.maxBufferSize);
  }

  /** Allocates a tensor of zeros. A refusal surfaces as `GpuMemoryError` at the next {@linkcode settle}. */
  alloc(label: string, dtype: DType, shape: Shape): Tensor {
    const byteLength = Math.max(16, Math.ceil(elements(shape) * ELEMENT_BYTES[dtype] / 16) * 16);
    if (!(byteLength <= this.maxBytes)) {
      throw new GpuMemoryError(
        `Cannot allocate ${byteLength} bytes for '${label}' as this device binds at most ${this.maxBytes} at once`,
      );
    }
    this.device.pushErrorScope("out-of-memory");
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const buffer = this.device.createBuffer({
      label,
      size: byteLength,
      usage: this.texels ? usage | GPUBufferUsage.UNIFORM : usage, // what multiplies texels is read as uniform
    });
    this.watch(`allocate ${byteLength} bytes for '${label}' beside the ${this.bytes} already in use`);
    this.bytes += byteLength;
    return new Tensor(label, dtype, shape, buffer, 0, this);
  }

  /** Allocates texels of zeros for so many bytes. A refusal surfaces as that of {@linkcode alloc} does. */
  allocTexels(label: string, format: TexelFormat, shape: Shape, bytes: number): Texels {
    this.device.pushErrorScope("out-of-memory");
    const texels = new Texels(this, label, format, shape, bytes);
    this.watch(`allocate ${texels.byteLength} bytes for '${label}' beside the ${this.bytes} already in use`);
    this.bytes += texels.byteLength;
    return texels;
  }

  /** Allocates a tensor that holds `data`. */
  upload(label: string, dtype: DType, shape: Shape, data: Data): Tensor {
    const tensor = this.alloc(label, dtype, shape);
    this.write(tensor, data);
    return tensor;
  }

  /** Writes `data` into a tensor or texels, `offset` bytes from the start (a multiple of 4, as is the length). */
  write(tensor: Tensor | Texels, data: Data, offset = 0): void {
    if (tensor instanceof Texels) return tensor.write(data, offset);
    if (offset + data.byteLength > Math.ceil(tensor.byteLength / 4) * 4) { // past the end aborts the process
      throw new RangeError(
        `Cannot write ${data.byteLength} bytes at byte ${offset} of '${tensor.label}' as it has ${tensor.byteLength}`,
      );
    }
    const whole = data.byteLength & ~3, at = tensor.byteOffset + offset;
    const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
    if (whole > 0) this.device.queue.writeBuffer(tensor.buffer, at, bytes, 0, whole);
    if (whole < data.byteLength) {
      const tail = new Uint8Array(4);
      tail.set(bytes.subarray(whole));
      this.device.queue.writeBuffer(tensor.buffer, at + whole, tail);
    }
  }

  /** Frees what owned tensors and texels hold. Called by their `using`. */
  release(owned: Tensor | Texels): void {
    this.bytes -= owned instanceof Texels ? owned.byteLength : owned.buffer.size;
    (owned instanceof Texels ? owned.texture : owned.buffer).destroy();
  }

  /** Starts a list of commands that one submit will run. */
  commands(label?: string): Commands {
    return new Commands(this, label);
  }

  /** Reads a tensor's bytes back. Blocks this thread until the GPU is idle. */
  async read(tensor: Tensor): Promise<ArrayBuffer> {
    const size = Math.ceil(tensor.byteLength / 4) * 4, commands = this.commands("read");
    using staging = new Staging(this, size);
    staging.copy(commands, tensor);
    commands.submit();
    return (await staging.read()).slice(0, tensor.byteLength);
  }

  async readF32(tensor: Tensor): Promise<Float32Array> {
    return new Float32Array(await this.read(tensor));
  }

  async readU32(tensor: Tensor): Promise<Uint32Array> {
    return new Uint32Array(await this.read(tensor));
  }

  /** Waits until the GPU has done everything submitted. Blocks this thread, then yields to the event loop once. */
  async idle(): Promise<void> {
    this.#fence ??= new Staging(this, 4);
    await this.#fence.read();
  }

  /** Waits for the answers to pending allocations and compilations, then throws the first error there was. */
  async settle(): Promise<void> {
    await Promise.all(this.#pending);
    this.check();
  }

  /** Throws the first error the GPU has reported, if any. */
  check(): void {
    const error = this.#error;
    if (!error) return;
    if (!(error instanceof DeviceLostError)) this.#error = undefined; // a lost device stays lost
    throw error;
  }

  /** Notes an error for the next {@linkcode check}. */
  fail(error: Error): void {
    this.#error ??= error;
  }

  /** Closes the open error scope; what it caught is thrown at the next {@linkcode settle}. */
  watch(action: string): void {
    const { bytes } = this;
    const promise = this.device.popErrorScope().then((error) => {
      if (!error) return;
      const memory = !(error instanceof GPUValidationError);
      this.fail(
        memory
          ? new GpuMemoryError(`Cannot ${action} as the GPU has not that much memory left`, bytes)
          : new Error(`Cannot ${action} as the GPU refused it: ${error.message}`),
      );
    });
    this.#pending.add(promise);
    promise.finally(() => this.#pending.delete(promise));
  }

  /** Compiles a kernel once per text. */
  compile(kernel: string, label: string, constants: Readonly<Record<string, Constant>>): Promise<Compiled> {
    let compiled = this.#pipelines.get(label);
    if (!compiled) this.#pipelines.set(label, compiled = this.#compile(kernel, label, constants));
    return compiled;
  }

  async #compile(
    kernel: string,
    label: string,
    constants: Readonly<Record<string, Constant>>,
  ): Promise<Compiled> {
    const { text, origin } = compose(sources, kernel, constants, this.subgroups);
    const entries = bindingsOf(text).map(({ name, binding, access, format }): GPUBindGroupLayoutEntry => ({
      binding,
      visibility: GPUShaderStage.COMPUTE,
      ...access === "texels"
        ? { storageTexture: { access: "read-only", format: format! } }
        : { buffer: { type: BUFFER_TYPES[access], hasDynamicOffset: name === "params" } },
    }));
    this.device.pushErrorScope("validation");
    const module = this.device.createShaderModule({ label, code: text });
    const layout = this.device.createBindGroupLayout({ label, entries });
    const pipeline = this.device.createComputePipeline({
      label,
      layout: this.device.createPipelineLayout({ label, bindGroupLayouts: [layout] }),
      compute: { module, entryPoint: "main" },
    });
    const error = await this.device.popErrorScope();
    if (error) {
      const { messages } = await module.getCompilationInfo();
      const lines = messages.map(({ lineNum, message }) => `${origin(lineNum - 1)}: ${message}`);
      throw new ShaderError(`Cannot compile ${label}:\n${lines.join("\n") || error.message}`);
    }
    return { label, pipeline, layout };
  }

  /** Destroys the device, with everything on it, unless it is the caller's own. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#fence?.[Symbol.dispose]();
    this.ring.destroy();
    if (this.ownsDevice) this.device.destroy();
  }
}

/** Whether this runtime's WGSL has a feature of the language. */
function speaks(feature: string): boolean {
  const { wgslLanguageFeatures } = (navigator.gpu ?? {}) as { wgslLanguageFeatures?: ReadonlySet<string> };
  return wgslLanguageFeatures?.has(feature) ?? false;
}

/**
 * A buffer that brings bytes back without the 10 ms that awaiting `mapAsync` costs in Deno: the map is complete when
 * the call returns, so its range is taken at once; only a platform where it is not awaits the promise.
 */
export class Staging implements Disposable {
  readonly #buffer: GPUBuffer;
  #mapped: Promise<void> | undefined;

  constructor(readonly gpu: Gpu, readonly byteLength: number) {
    // Mapped once at creation: a first map that is not awaited would abort the process (deno 2.9).
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    this.#buffer = gpu.device.createBuffer({ label: "staging", size: byteLength, usage, mappedAtCreation: true });
    this.#buffer.unmap();
  }

  /** Copies the first bytes of `tensor` here when `commands` run. */
  copy(commands: Commands, tensor: Tensor, offset = 0): void {
    const length = Math.min(this.byteLength - offset, Math.ceil(tensor.byteLength / 4) * 4);
    commands.encoder.copyBufferToBuffer(tensor.buffer, tensor.byteOffset, this.#buffer, offset, length);
  }

  /** The bytes, once the submitted copy has run. */
  async read(): Promise<ArrayBuffer> {
    this.gpu.check();
    const mapped = this.#buffer.mapAsync(GPUMapMode.READ);
    mapped.catch(() => {});
    let range: ArrayBuffer;
    try {
      range = this.#buffer.getMappedRange();
    } catch { // not mapped yet: another runtime, or an error that `settle` tells
      await mapped.catch(async (error) => {
        await this.gpu.settle();
        throw error;
      });
      range = this.#buffer.getMappedRange();
    }
    const out = range.slice(0);
    this.#buffer.unmap();
    this.#mapped = mapped;
    await new Promise<void>((resolve) => setImmediate(resolve)); // drains the op behind `mapped`, which still sleeps
    await this.gpu.settle();
    return out;
  }

  [Symbol.dispose](): void {
    this.#mapped?.catch(() => {});
    this.#buffer.destroy();
  }
}

/**
 * Whether an adapter is wgpu's OpenGL backend, which nothing names: on any driver it binds 16 textures, cannot store
 * `bgra8unorm`, and gives the widest bounds there are, 4 to 128, for the subgroups it has not.
 */
function isOpenGl({ info, features, limits }: GPUAdapter): boolean {
  return info.subgroupMinSize === 4 && info.subgroupMaxSize === 128 && !features.has("bgra8unorm-storage") &&
    limits.maxSampledTexturesPerShaderStage === 16;
}

async function openDevice(adapter: GPUAdapter): Promise<GPUDevice> {
  const requiredLimits: Record<string, number> = {};
  for (const name in adapter.limits) {
    const value = (adapter.limits as unknown as Record<string, unknown>)[name];
    if (typeof value === "number") requiredLimits[name] = value;
  }
  const features: GPUFeatureName[] = [];
  for (const name of WISHES) { // asked for one by one, since what is hidden can only be tried
    const wish = name as GPUFeatureName;
    if (adapter.features.has(wish)) features.push(wish);
    else if (name === "subgroups") {
      try {
        const probe = await adapter.requestDevice({ requiredFeatures: [wish] });
        probe.destroy();
        features.push(wish);
      } catch { /* not granted */ }
    }
  }
  try {
    return await adapter.requestDevice({ requiredFeatures: features, requiredLimits });
  } catch (error) {
    throw new GpuUnavailableError(`Cannot open the GPU device: ${(error as Error).message}`);
  }
}

/** Whether subgroup built-ins compile on this device without an enable line, and add up. */
async function sums(device: GPUDevice): Promise<boolean> {
  const code = `@group(0) @binding(0) var<storage, read_write> out: array<u32>;
@compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lane: u32) {
  let size = subgroupAdd(1u);
  let sum = subgroupAdd(lane);
  if lane == 0u { out[0] = size; out[1] = sum; }
}`;
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code });
  const pipeline = device.createComputePipeline({ layout: "auto", compute: { module } });
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC;
  const out = device.createBuffer({ size: 8, usage });
  const staging = device.createBuffer({ size: 8, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  const encoder = device.createCommandEncoder(), pass = encoder.beginComputePass();
  try {
    pass.setPipeline(pipeline);
    const entries = [{ binding: 0, resource: { buffer: out } }];
    pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
    pass.dispatchWorkgroups(1);
    pass.end();
    encoder.copyBufferToBuffer(out, 0, staging, 0, 8);
    device.queue.submit([encoder.finish()]);
    if (await device.popErrorScope()) return false;
    await staging.mapAsync(GPUMapMode.READ);
    const [size, sum] = new Uint32Array(staging.getMappedRange());
    return size! >= 4 && (size! & (size! - 1)) === 0 && size! <= 64 && sum === size! * (size! - 1) / 2;
  } catch {
    return false;
  } finally {
    out.destroy();
    staging.destroy();
  }
}
