/**
 * What the kernels that multiply one token by a matrix have in common: what they are fused with, take and refuse.
 *
 * @module
 */
import type { WeightType } from "../core/model.ts";
import { elements, type Tensor } from "../gpu/tensor.ts";
import { expectWeights, type WeightMatrix, type WeightSlice } from "./weights.ts";

/** What a product is fused with. */
export interface MatvecForm {
  /** RMS-normalizes x first, by `gain`. */
  readonly norm?: boolean;
  /** Adds to out. */
  readonly residual?: boolean;
  /** Takes a gate over its up matrix: `silu(gate x) * (up x)`. */
  readonly gated?: boolean;
}

/** Tensors of a product. `gain f32 [cols]` where x is normalized. */
export interface MatvecTensors {
  readonly x: Tensor;
  readonly gain?: Tensor;
  readonly out: Tensor;
}

/** Where x and out begin in their tensors, in elements, and the norm's epsilon. */
export interface MatvecOptions {
  readonly xOffset?: number;
  readonly outOffset?: number;
  readonly eps?: number;
}

/** The slices of a matrix. Throws `TypeError` or `RangeError` unless a kernel for `type` and `form` can make the product. */
export function expectMatvec(
  type: WeightType,
  { norm = false, gated = false }: MatvecForm,
  weights: WeightMatrix,
  { x, gain, out }: MatvecTensors,
  { xOffset = 0, outOffset = 0 }: MatvecOptions,
): readonly WeightSlice<Tensor>[] {
  const { rows, cols, paired } = weights, action = "multiply a vector by weights";
  const slices = expectWeights(action, weights, type);
  if (paired !== gated && slices.length > 1 || gated && rows % 2 !== 0) {
    throw new TypeError(`Cannot ${action} as only a gated product takes paired rows, and no others`);
  }
  if (norm && gain === undefined) throw new TypeError(`Cannot ${action} as a normalized product takes a gain`);
  if (xOffset % 4 !== 0) throw new RangeError(`Cannot ${action} as x must begin at a multiple of 4: ${xOffset}`);
  expectRoom(action, "x", x, xOffset + cols);
  expectRoom(action, "out", out, outOffset + rows / (gated ? 2 : 1));
  if (norm) expectRoom(action, "gain", gain!, cols);
  return slices;
}

function expectRoom(action: string, name: string, tensor: Tensor, needed: number): void {
  const held = elements(tensor.shape);
  if (held < needed) {
    throw new TypeError(`Cannot ${action} as '${name}' must hold ${needed} numbers: "${tensor.label}" holds ${held}`);
  }
}
