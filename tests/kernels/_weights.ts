/** Weight matrices to test with: random blocks, and the numbers that they stand for. */
import { fromF16, toF16 } from "../../src/core/f16.ts";
import { BLOCKS, type WeightType } from "../../src/core/model.ts";
import { Rng } from "../../src/core/rng.ts";

export const TYPES = Object.keys(BLOCKS) as WeightType[];

export interface Sample {
  readonly type: WeightType;
  readonly rows: number;
  readonly cols: number;
  readonly file: Uint8Array;
  readonly numbers: Float64Array;
}

/** `size` multiplies all numbers: without it most are about 1. */
export function randomWeights(type: WeightType, rows: number, cols: number, seed: number, size = 1): Sample {
  const rng = new Rng(seed), { weights, bytes } = BLOCKS[type], blocks = rows * cols / weights;
  const file = new Uint8Array(blocks * bytes),
    view = new DataView(file.buffer),
    numbers = new Float64Array(rows * cols);
  for (let i = 0; i < file.length; i++) file[i] = rng.below(256);
  const half = (at: number, scale: number): number => {
    const bits = toF16((0.2 + rng.uniform()) * size * scale * (rng.below(50) === 0 ? 1e-3 : 1));
    view.setUint16(at, bits, true);
    return fromF16(bits);
  };
  for (let b = 0; b < blocks; b++) {
    const at = b * bytes, out = b * weights, byte = (i: number): number => file[at + i]!;
    const int8 = (i: number): number => view.getInt8(at + i);
    if (type === "F32") {
      view.setFloat32(at, size * rng.normal(), true);
      numbers[out] = view.getFloat32(at, true);
    } else if (type === "F16") numbers[out] = half(at, rng.normal());
    else if (type === "BF16") {
      const f = new Float32Array([size * rng.normal()]), top = new Uint32Array(f.buffer)[0]! >>> 16;
      view.setUint16(at, top, true);
      numbers[out] = new Float32Array(new Uint32Array([top << 16]).buffer)[0]!;
    } else if (type === "Q8_0") {
      const d = half(at, 0.01);
      for (let i = 0; i < 32; i++) numbers[out + i] = d * int8(2 + i);
    } else if (type === "Q4_0") {
      const d = half(at, 0.1);
      for (let i = 0; i < 16; i++) {
        numbers[out + i] = d * ((byte(2 + i) & 15) - 8);
        numbers[out + 16 + i] = d * ((byte(2 + i) >> 4) - 8);
      }
    } else if (type === "Q4_K") {
      const d = half(at, 0.01), least = half(at + 2, 0.1);
      for (let i = 0; i < 256; i++) {
        const j = i >> 5, q = byte(16 + 32 * (i >> 6) + (i & 31)), s = (k: number): number => byte(4 + k);
        const scale = j < 4 ? s(j) & 63 : s(j + 4) & 15 | s(j - 4) >> 6 << 4;
        const min = j < 4 ? s(j + 4) & 63 : s(j + 4) >> 4 | s(j) >> 6 << 4;
        numbers[out + i] = d * scale * (i & 32 ? q >> 4 : q & 15) - least * min;
      }
    } else {
      const d = half(at + 208, 1e-3);
      for (let n = 0; n < 2; n++) {
        for (let l = 0; l < 32; l++) {
          const a = byte(64 * n + l), c = byte(64 * n + l + 32), h = byte(128 + 32 * n + l), s = 192 + 8 * n + (l >> 4);
          const q = [
            a & 15 | (h & 3) << 4,
            c & 15 | (h >> 2 & 3) << 4,
            a >> 4 | (h >> 4 & 3) << 4,
            c >> 4 | h >> 6 << 4,
          ];
          for (let k = 0; k < 4; k++) numbers[out + 128 * n + 32 * k + l] = d * int8(s + 2 * k) * (q[k]! - 32);
        }
      }
    }
  }
  return { type, rows, cols, file, numbers };
}
