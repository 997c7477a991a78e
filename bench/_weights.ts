/** Weight matrices for benches, and how their products are timed. */
import type { Commands } from "../src/gpu/commands.ts";
import type { Tensor } from "../src/gpu/tensor.ts";
import type { WeightDims } from "../src/core/shapes.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import { WeightMatrix, type WeightMatrixOptions } from "../src/kernels/weights.ts";
import { randomWeights } from "../tests/kernels/_weights.ts";
import { bench, ROTATE_BYTES, time } from "./_harness.ts";

/** A matrix of random weights; its rows repeat. */
export function randomMatrix(gpu: Gpu, dims: WeightDims, options: WeightMatrixOptions = {}): WeightMatrix {
  const { type, rows, cols } = dims, matrix = WeightMatrix.alloc(gpu, "weights", dims, options);
  const few = Math.min(rows, 64), { file } = randomWeights(type, few, cols, 1), rowBytes = file.length / few;
  for (let row = 0; row < rows; row += few) matrix.write(row, file.subarray(0, Math.min(few, rows - row) * rowBytes));
  return matrix;
}

/** Random matrices, as many as no cache of a GPU holds; `owned` is to dispose of them. */
export async function randomMatrices(owned: DisposableStack, dims: WeightDims): Promise<WeightMatrix[]> {
  const { gpu, software } = await bench(), make = () => owned.use(randomMatrix(gpu, dims)), matrices = [make()];
  while (!software && dims.rows > 512 && matrices.length * matrices[0]!.bytes < ROTATE_BYTES) matrices.push(make());
  return matrices;
}

/**
 * Times products of one vector with all of `matrices`: in a row, each waiting for the last one's end as a model's do, and
 * side by side, each with an output of its own and waiting for none.
 */
export async function timeProducts(
  name: string,
  matrices: readonly WeightMatrix[],
  rows: number,
  encode: (commands: Commands, matrix: WeightMatrix, out: Tensor) => void,
): Promise<void> {
  const { gpu } = await bench(), { bytes } = matrices[0]!, count = matrices.length;
  using owned = new DisposableStack();
  const outs = matrices.map(() => owned.use(gpu.alloc("out", "f32", [rows])));
  for (const [how, outOf] of [["in a row", () => outs[0]!], ["side by side", (i: number) => outs[i]!]] as const) {
    if (how !== "in a row" && count === 1) continue;
    await time(`${name}, ${count} ${how}`, bytes * count, (commands) => {
      matrices.forEach((matrix, i) => encode(commands, matrix, outOf(i)));
    }, { repetitions: 20 });
  }
}
