/** Weight matrices to test with: random blocks of every type, and the numbers that they stand for. */
import { toF16 } from "../../src/core/f16.ts";
import { BLOCKS, type WeightType } from "../../src/core/model.ts";
import { Rng } from "../../src/core/rng.ts";
import { dequantize } from "../../src/ref/dequantize.ts";

export const TYPES = Object.keys(BLOCKS) as WeightType[];

/** A matrix `[rows][cols]` as a file has it, and as numbers. */
export interface Sample {
  readonly type: WeightType;
  readonly rows: number;
  readonly cols: number;
  readonly file: Uint8Array;
  readonly numbers: Float32Array;
}

/** Where a block keeps its scales in half precision, and their size; the rest of it may be any bytes. */
const SCALES: Readonly<Partial<Record<WeightType, readonly (readonly [at: number, size: number])[]>>> = {
  Q8_0: [[0, 0.01]],
  Q4_0: [[0, 0.1]],
  Q4_K: [[0, 0.01], [2, 0.1]],
  Q6_K: [[208, 1e-3]],
};

/** Seeded random weights of some `gain`, without it about 1; now and then a block's scale is a thousandth of the others'. */
export function randomWeights(type: WeightType, rows: number, cols: number, seed: number, gain = 1): Sample {
  const rng = new Rng(seed), { weights, bytes } = BLOCKS[type], count = rows * cols;
  const file = Uint8Array.from({ length: count / weights * bytes }, () => rng.u32()), view = new DataView(file.buffer);
  for (let at = 0; at < file.length; at += bytes) {
    const small = gain * (rng.below(50) === 0 ? 1e-3 : 1);
    if (type === "F32") view.setFloat32(at, rng.normal() * small, true);
    else if (type === "F16") view.setUint16(at, toF16(rng.normal() * small), true);
    else if (type === "BF16") {
      view.setUint16(at, new Uint16Array(Float32Array.of(rng.normal() * small).buffer)[1]!, true);
    }
    for (const [where, size] of SCALES[type] ?? []) {
      view.setUint16(at + where, toF16((0.2 + rng.uniform()) * size * small), true);
    }
  }
  return { type, rows, cols, file, numbers: dequantize(type, file, count) };
}
