/**
 * What the matrix-matrix products share: what a matrix must fit, and which of its rows go where.
 *
 * @module
 */
import type { WeightType } from "../core/model.ts";
import { expectShapes } from "../gpu/kernel.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { Texels } from "../gpu/texels.ts";
import { expectWeights, type WeightMatrix } from "./weights.ts";

/** Tensors of a product: `x f32 [T][cols]`, `out f32 [T][stride]`. */
export interface MatmulTensors {
  readonly x: Tensor;
  readonly out: Tensor;
}

/** Rows of a slice, from `first` on, that fill neighbouring columns of out, from `column` on. */
export interface MatmulRun<Store = Tensor | Texels> {
  readonly data: Store;
  readonly scales: Store;
  readonly first: number;
  readonly rows: number;
  readonly column: number;
}

/** The runs of a product into out from `column` on. Throws `TypeError` unless a kernel for `type` can make it. */
export function matmulRuns(
  type: WeightType,
  weights: WeightMatrix,
  io: MatmulTensors,
  column: number,
): MatmulRun<Tensor>[];
export function matmulRuns(
  type: WeightType,
  weights: WeightMatrix,
  io: MatmulTensors,
  column: number,
  texels: boolean,
): MatmulRun[];
export function matmulRuns(
  type: WeightType,
  weights: WeightMatrix,
  { x, out }: MatmulTensors,
  column: number,
  texels = false,
): MatmulRun[] {
  const { rows, cols, paired } = weights, tokens = x.shape[0]!, stride = out.shape[1]!;
  const action = "multiply tokens by weights", slices = expectWeights(action, weights, type, texels);
  expectShapes(action, { x, out }, { x: [tokens, cols], out: [tokens, stride] });
  if (column + rows > stride) {
    throw new TypeError(`Cannot ${action} as 'out' must have ${column + rows} columns: it has ${stride}`);
  }
  const halves = paired && slices.length > 1 ? 2 : 1; // whose partners lie in one slice, and apart in out
  return slices.flatMap(({ row, rows: held, data, scales }) =>
    Array.from({ length: halves }, (_, half) => {
      const span = held / halves;
      return { data, scales, first: half * span, rows: span, column: column + row + half * rows / 2 };
    })
  );
}
