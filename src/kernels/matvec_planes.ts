import type { WeightType } from "../core/model.ts";
import type { WeightDims } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { Kernel } from "../gpu/kernel.ts";
import { matvec_planes } from "../gpu/wgsl.gen.ts";
import { expectMatvec, type MatvecForm, type MatvecOptions, type MatvecTensors } from "./matvec_form.ts";
import type { WeightMatrix } from "./weights.ts";

/** How the types that the kernel is for are read, and the columns of a load, and so of a lane. */
const READ: Readonly<Partial<Record<WeightType, { readonly part: string; readonly columns: number }>>> = {
  Q8_0: { part: "planes_q8_0", columns: 16 },
  Q4_0: { part: "planes_q4_0", columns: 32 },
};

/** Rows and columns from which rounding x to planes pays. */
const LEAST = 2048;
/** Of a workgroup, on any device: what many GPUs allow. */
const MOST_LANES = 1024;
/** Lanes of all workgroups together: more of them make the planes more often, and fewer leave a large GPU waiting. */
const ALL_LANES = 65_536;
/** Rows up to which workgroups of nibbles, whose planes take as long and whose loads half as long, are fewer. */
const SHORT = 16_384;
/** Workgroups at least: about one for each processor of a large GPU. */
const LEAST_WORKGROUPS = 128;

/** What the choice asks of a device. */
export interface PlanesDevice {
  readonly subgroups: boolean;
  readonly packedDot: boolean;
  readonly subgroupLanes: number;
  readonly limits: Pick<GPUSupportedLimits, "maxComputeInvocationsPerWorkgroup" | "maxComputeWorkgroupStorageSize">;
}

/** How a row is shared, and the rows. */
export interface MatvecPlanesVariant {
  /** Of a workgroup, one a load of a row: whole subgroups. */
  readonly lanes: number;
  /** About as many as share the rows. */
  readonly workgroups: number;
}

/** Workgroup memory of so many lanes in bytes: parts of twelve rows in the smallest subgroups, and what makes them. */
export function matvecPlanesBytes(lanes: number, subgroups: boolean): number {
  return 4 * 3 * lanes + (subgroups ? 0 : 16 * lanes);
}

/** Picks a lane for every load of a row; `undefined` where another kernel is the right one. Pure. */
export function chooseMatvecPlanes(
  { type, rows, cols }: WeightDims,
  { subgroups, packedDot, subgroupLanes, limits }: PlanesDevice,
): MatvecPlanesVariant | undefined {
  const read = READ[type];
  if (!read || !subgroups || !packedDot || rows < LEAST || cols < LEAST) return undefined;
  const whole = Math.max(32, subgroupLanes), lanes = Math.ceil(cols / read.columns / whole) * whole;
  const fits = lanes <= Math.min(MOST_LANES, limits.maxComputeInvocationsPerWorkgroup) &&
    matvecPlanesBytes(lanes, subgroups) <= limits.maxComputeWorkgroupStorageSize;
  const shares = type === "Q4_0" && rows <= SHORT ? 0.75 : 1;
  return fits ? { lanes, workgroups: Math.max(LEAST_WORKGROUPS, Math.ceil(shares * ALL_LANES / lanes)) } : undefined;
}

/** Multiplies one token by a matrix of Q8_0 or Q4_0 weights in integers. Borrows every tensor. */
export class MatvecPlanes {
  private constructor(
    readonly kernel: Kernel<typeof matvec_planes>,
    readonly type: WeightType,
    readonly form: MatvecForm,
    readonly variant: MatvecPlanesVariant,
  ) {}

  /** For matrices of `type` whose rows are at most a load for each of the variant's lanes. */
  static async create(
    gpu: Gpu,
    type: WeightType,
    form: MatvecForm,
    variant: MatvecPlanesVariant,
  ): Promise<MatvecPlanes> {
    const { norm = false, residual = false, gated = false } = form, { lanes: WG } = variant, read = READ[type];
    if (!read) {
      throw new TypeError(`Cannot multiply in integers as weights must be Q8_0 or Q4_0: ${type}`);
    }
    const constants = { WEIGHT: read.part, WG, NORM: norm, RESIDUAL: residual, GATED: gated };
    const kernel = await Kernel.create(gpu, matvec_planes, constants);
    return new MatvecPlanes(kernel, type, { norm, residual, gated }, variant);
  }

  /** Encodes a product, one dispatch a slice of the matrix. */
  encode(commands: Commands, weights: WeightMatrix, io: MatvecTensors, options: MatvecOptions = {}): void {
    const slices = expectMatvec(this.type, this.form, weights, io, options);
    const { x, out, gain = x } = io, { xOffset = 0, outOffset = 0, eps = 0 } = options, { cols } = weights;
    const { lanes, workgroups } = this.variant, { columns } = READ[this.type]!, loads = cols / columns;
    if (loads > lanes) {
      throw new RangeError(
        `Cannot multiply a vector by weights as rows must be at most ${
          columns * lanes
        } columns for this kernel: ${cols}`,
      );
    }
    const halves = this.form.gated ? 2 : 1, group = 8 / halves;
    for (const { row, rows: both, data, scales } of slices) {
      const rows = both / halves, span = group * Math.ceil(rows / workgroups / group);
      const params = { rows, loads, quads: cols / 4, xQuad: xOffset / 4, outFirst: outOffset + row, span, eps };
      this.kernel.encode(commands, { weights: data, scales, x, gain, out }, params, [Math.ceil(rows / span)]);
    }
  }
}
