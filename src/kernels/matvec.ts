import { UNIT, weightLayout } from "../core/weight_layout.ts";
import type { WeightType } from "../core/model.ts";
import type { WeightDims } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { Kernel } from "../gpu/kernel.ts";
import { matvec } from "../gpu/wgsl.gen.ts";
import { expectMatvec, type MatvecForm, type MatvecOptions, type MatvecTensors } from "./matvec_form.ts";
import { type WeightMatrix, weightPart } from "./weights.ts";

/** Units that a lane takes at a time: the parts' WEIGHT_UNITS. */
const LOAD_UNITS: Readonly<Record<WeightType, number>> = {
  F32: 1,
  F16: 1,
  BF16: 1,
  Q8_0: 1,
  Q4_0: 2,
  Q4_K: 2,
  Q6_K: 2,
};

/** Rows from which a matrix is tall: a subgroup for every few of them is enough to fill a large GPU. */
const TALL = 8192;

/** How a workgroup works: lanes along a row, and the sums that it makes. */
export interface MatvecVariant {
  readonly lanes: number;
  readonly rows: 4 | 8;
}

/**
 * Picks few lanes for tall matrices, which fill a large GPU all the same; in low ones every lane takes a load or two.
 * More rows share what is read of x, which counts most with a gain; K-quants lack the registers. Pure.
 */
export function chooseMatvec(
  { type, rows, cols }: WeightDims,
  { norm = false, gated = false }: MatvecForm,
  maxLanes: number,
): MatvecVariant {
  const loads = Math.ceil(weightLayout(type, cols).units / LOAD_UNITS[type]), isTall = rows >= TALL;
  const isK = type === "Q4_K" || type === "Q6_K", most = !isTall ? 128 : isK ? 64 : 32;
  const lanes = Math.min(most, maxLanes, Math.max(32, 2 ** Math.floor(Math.log2(loads))));
  return { lanes, rows: gated || !isK && (rows >= 2 * TALL || norm) ? 8 : 4 };
}

/** Multiplies one token by a matrix of weights. Borrows every tensor. */
export class Matvec {
  private constructor(
    readonly kernel: Kernel<typeof matvec>,
    readonly type: WeightType,
    readonly form: MatvecForm,
    readonly variant: MatvecVariant,
  ) {}

  /** For matrices of `type`: compiled for a shape, right for any. */
  static async create(
    gpu: Gpu,
    dims: WeightDims,
    form: MatvecForm = {},
    variant: MatvecVariant = chooseMatvec(dims, form, gpu.limits.maxComputeInvocationsPerWorkgroup),
  ): Promise<Matvec> {
    const { norm = false, residual = false, gated = false } = form, { lanes: WG, rows: ROWS } = variant;
    const constants = { WEIGHT: weightPart(dims.type), WG, ROWS, NORM: norm, RESIDUAL: residual, GATED: gated };
    return new Matvec(await Kernel.create(gpu, matvec, constants), dims.type, { norm, residual, gated }, variant);
  }

  /** Encodes a product, one dispatch a slice of the matrix. */
  encode(commands: Commands, weights: WeightMatrix, io: MatvecTensors, options: MatvecOptions = {}): void {
    const slices = expectMatvec(this.type, this.form, weights, io, options);
    const { x, out, gain = x } = io, { xOffset = 0, outOffset = 0, eps = 0 } = options;
    const { cols } = weights, halves = this.form.gated ? 2 : 1;
    for (const { row, rows: held, data, scales } of slices) {
      const params = {
        rows: held / halves,
        units: Math.ceil(cols / UNIT),
        quads: cols / 4,
        xQuad: xOffset / 4,
        outFirst: outOffset + row,
        eps,
      };
      const grid = [Math.ceil(held / this.variant.rows)] as const;
      this.kernel.encode(commands, { weights: data, scales, x, gain, out }, params, grid);
    }
  }
}
