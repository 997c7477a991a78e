/** The device that tests run on, with subgroups and without, and outputs that start as NaN. */
import { Gpu } from "../src/gpu/gpu.ts";
import type { Shape, Tensor } from "../src/gpu/tensor.ts";
import { elements } from "../src/gpu/tensor.ts";
import { TEXEL_BYTES, type Texels } from "../src/gpu/texels.ts";

/** Runs `body` as a step on each text that kernels have: with subgroups, where granted, and without. */
export async function onEachText(
  t: Deno.TestContext,
  body: (gpu: Gpu, t: Deno.TestContext) => Promise<void>,
): Promise<void> {
  for (const subgroups of [true, false]) {
    using gpu = await Gpu.create({ subgroups });
    if (subgroups !== gpu.subgroups) continue;
    await t.step(subgroups ? "with subgroups" : "without subgroups", (t) => body(gpu, t));
  }
}

/** Runs `body` as a step on a device as it is, and where lanes tell others what they read, with none of that as well. */
export async function onEachReading(
  t: Deno.TestContext,
  body: (gpu: Gpu, t: Deno.TestContext) => Promise<void>,
): Promise<void> {
  using gpu = await Gpu.create();
  if (!gpu.lanesTell) return await body(gpu, t);
  await t.step("lanes tell others what they read", (t) => body(gpu, t));
  using other = await Gpu.create({ subgroups: false });
  await t.step("lanes read for themselves, as on a GPU", (t) => body(other, t));
}

/** An f32 tensor that holds NaN, so that what a kernel does not write shows. */
export function poisoned(gpu: Gpu, label: string, shape: Shape): Tensor {
  return gpu.upload(label, "f32", shape, new Float32Array(elements(shape)).fill(NaN));
}

/** The bytes of texels, whole rows of them. */
export async function readTexels(gpu: Gpu, { texture, format, byteLength }: Texels): Promise<Uint8Array> {
  using out = gpu.alloc("texels", "u32", [byteLength / 4]);
  const commands = gpu.commands("read texels"), { width, height } = texture;
  const target = { buffer: out.buffer, bytesPerRow: width * TEXEL_BYTES[format] };
  commands.encoder.copyTextureToBuffer({ texture }, target, [width, height]);
  commands.submit();
  return new Uint8Array(await gpu.read(out));
}

/** A device as any program has it, with the limits that every adapter has, and the bytes of what lives on it. */
export async function plainDevice(): Promise<{ device: GPUDevice; bytes: () => number }> {
  const adapter = await navigator.gpu.requestAdapter(), device = await adapter!.requestDevice();
  const live = new Map<GPUBuffer | GPUTexture, number>();
  const count = <T extends GPUBuffer | GPUTexture>(made: T, size: number): T => {
    const destroy = made.destroy.bind(made);
    live.set(made, size);
    made.destroy = () => {
      live.delete(made);
      return destroy();
    };
    return made;
  };
  const buffer = device.createBuffer.bind(device), texture = device.createTexture.bind(device);
  device.createBuffer = (descriptor) => count(buffer(descriptor), descriptor.size);
  device.createTexture = (descriptor) => {
    const made = texture(descriptor), texel = TEXEL_BYTES[descriptor.format as keyof typeof TEXEL_BYTES];
    return count(made, made.width * made.height * texel);
  };
  return { device, bytes: () => [...live.values()].reduce((sum, size) => sum + size, 0) };
}
