/**
 * Keys and values of an exact cache as numbers on the CPU, and back.
 *
 * @module
 */
import { fromF16, toF16 } from "../core/f16.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";

/** Keys after RoPE and values of one layer: `u32 [K][T][D/2]`, two halves a word. */
export interface CachePair {
  readonly keys: Tensor;
  readonly values: Tensor;
}

/** Every half-precision number, by its bits: quicker than to work it out. */
let halves: Float32Array | undefined;

/** The numbers of one side of a cache, `[K][T][D]`. */
export async function readNumbers(gpu: Gpu, tensor: Tensor): Promise<Float32Array> {
  halves ??= Float32Array.from({ length: 65536 }, (_, bits) => fromF16(bits));
  const bits = new Uint16Array(await gpu.read(tensor)), out = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) out[i] = halves[bits[i]!]!;
  return out;
}

/** Rounds numbers to half precision and writes them to one side of a cache. */
export function writeNumbers(gpu: Gpu, tensor: Tensor, numbers: Float32Array): void {
  const bits = new Uint16Array(numbers.length);
  for (let i = 0; i < bits.length; i++) bits[i] = toF16(numbers[i]!);
  gpu.write(tensor, bits);
}
