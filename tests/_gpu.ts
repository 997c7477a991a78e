/** The device that tests run on, with subgroups and without, and outputs that start as NaN. */
import { Gpu } from "../src/gpu/gpu.ts";
import type { Shape, Tensor } from "../src/gpu/tensor.ts";
import { elements } from "../src/gpu/tensor.ts";

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

/** An f32 tensor that holds NaN, so that what a kernel does not write shows. */
export function poisoned(gpu: Gpu, label: string, shape: Shape): Tensor {
  return gpu.upload(label, "f32", shape, new Float32Array(elements(shape)).fill(NaN));
}

/** A device as any program has it, with the limits that every adapter has, and the bytes of its live buffers. */
export async function plainDevice(): Promise<{ device: GPUDevice; bytes: () => number }> {
  const adapter = await navigator.gpu.requestAdapter(), device = await adapter!.requestDevice();
  const create = device.createBuffer.bind(device), live = new Map<GPUBuffer, number>();
  device.createBuffer = (descriptor) => {
    const buffer = create(descriptor), destroy = buffer.destroy.bind(buffer);
    live.set(buffer, descriptor.size);
    buffer.destroy = () => {
      live.delete(buffer);
      return destroy();
    };
    return buffer;
  };
  return { device, bytes: () => [...live.values()].reduce((sum, size) => sum + size, 0) };
}
