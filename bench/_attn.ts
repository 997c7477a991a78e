/** Caches for the attention benches. */
import { toF16Array } from "../src/core/f16.ts";
import { Rng } from "../src/core/rng.ts";
import type { Shape, Tensor } from "../src/gpu/tensor.ts";
import type { Gpu } from "../src/gpu/gpu.ts";

const rng = new Rng(1), normals = Float32Array.from({ length: 2 ** 20 }, () => rng.normal());
const halves = toF16Array(normals);

/** A tensor of f32 normal deviates, or of pairs in half precision for "u32"; it repeats itself. */
export function random(gpu: Gpu, label: string, dtype: "f32" | "u32", shape: Shape): Tensor {
  const tensor = gpu.alloc(label, dtype, shape), bits = dtype === "f32" ? normals : halves;
  using seed = gpu.upload("seed", dtype, [bits.byteLength / 4], bits);
  const commands = gpu.commands("fill");
  for (let at = 0; at < tensor.byteLength; at += seed.byteLength) {
    commands.copy(seed, tensor, Math.min(seed.byteLength, tensor.byteLength - at), 0, at);
  }
  commands.submit();
  return tensor;
}
