/** Weight matrices for benches. */
import type { WeightDims } from "../src/core/shapes.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import { WeightMatrix, type WeightMatrixOptions } from "../src/kernels/weights.ts";
import { randomWeights } from "../tests/kernels/_weights.ts";

/** A matrix of random weights; its rows repeat. */
export function randomMatrix(gpu: Gpu, dims: WeightDims, options: WeightMatrixOptions = {}): WeightMatrix {
  const { type, rows, cols } = dims, matrix = WeightMatrix.alloc(gpu, "weights", dims, options);
  const few = Math.min(rows, 64), { file } = randomWeights(type, few, cols, 1), rowBytes = file.length / few;
  for (let row = 0; row < rows; row += few) matrix.write(row, file.subarray(0, Math.min(few, rows - row) * rowBytes));
  return matrix;
}
