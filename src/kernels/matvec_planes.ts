import type { WeightType } from "../core/model.ts";
import type { WeightDims } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { Kernel } from "../gpu/kernel.ts";
import { matvec_planes } from "../gpu/wgsl.gen.ts";
import { expectMatvec, type MatvecForm, type MatvecOptions, type MatvecTensors } from "./matvec_form.ts";
import type { WeightMatrix } from "./weights.ts";

/** Columns of a word of 16 bytes, of the types that the kernel is for. */
const WORD_COLUMNS: Readonly<Partial<Record<WeightType, number>>> = { Q8_0: 16, Q4_0: 32 };

/** Rows and columns from which rounding x to planes pays. */
const LEAST = 2048;
/** What the kernel's workgroup memory has room for. */
const MOST_LANES = 512;
/** Lanes of all workgroups together: more of them make the planes more often, and fewer leave a large GPU waiting. */
const ALL_LANES = 65536;

/** What the choice asks of a device. */
export interface PlanesDevice {
  readonly subgroups: boolean;
  readonly packedDot: boolean;
  readonly subgroupLanes: number;
  readonly limits: Pick<GPUSupportedLimits, "maxComputeInvocationsPerWorkgroup">;
}

/** How a row is shared, and the rows. */
export interface MatvecPlanesVariant {
  /** Of a workgroup: whole subgroups. */
  readonly lanes: number;
  /** Words of a row that a lane holds. */
  readonly held: 1 | 2;
  /** About as many as share the rows. */
  readonly workgroups: number;
}

/** Picks a lane for every word of a row, or every two; `undefined` where another kernel is the right one. Pure. */
export function chooseMatvecPlanes(
  { type, rows, cols }: WeightDims,
  { subgroups, packedDot, subgroupLanes, limits }: PlanesDevice,
): MatvecPlanesVariant | undefined {
  const columns = WORD_COLUMNS[type];
  if (!columns || !subgroups || !packedDot || rows < LEAST || cols < LEAST) return undefined;
  const words = cols / columns, most = Math.min(MOST_LANES, limits.maxComputeInvocationsPerWorkgroup);
  const held = words <= most ? 1 : 2, whole = Math.max(32, subgroupLanes);
  const lanes = Math.ceil(words / held / whole) * whole;
  if (held === 2 && type === "Q4_0" || lanes > most) return undefined;
  return { lanes, held, workgroups: Math.ceil(ALL_LANES / lanes) };
}

/** Multiplies one token by a matrix of Q8_0 or Q4_0 weights in integers. Borrows every tensor. */
export class MatvecPlanes {
  private constructor(
    readonly kernel: Kernel<typeof matvec_planes>,
    readonly type: WeightType,
    readonly form: MatvecForm,
    readonly variant: MatvecPlanesVariant,
  ) {}

  /** For matrices of `type` whose rows are at most as many words as the variant's lanes hold. */
  static async create(
    gpu: Gpu,
    type: WeightType,
    form: MatvecForm,
    variant: MatvecPlanesVariant,
  ): Promise<MatvecPlanes> {
    const { norm = false, residual = false, gated = false } = form, { lanes: WG, held: HELD } = variant;
    if (!WORD_COLUMNS[type]) {
      throw new TypeError(`Cannot multiply in integers as weights must be Q8_0 or Q4_0: ${type}`);
    }
    const constants = { WG, HELD, NIBBLES: type === "Q4_0", NORM: norm, RESIDUAL: residual, GATED: gated };
    const kernel = await Kernel.create(gpu, matvec_planes, constants);
    return new MatvecPlanes(kernel, type, { norm, residual, gated }, variant);
  }

  /** Encodes a product, one dispatch a slice of the matrix. */
  encode(commands: Commands, weights: WeightMatrix, io: MatvecTensors, options: MatvecOptions = {}): void {
    expectMatvec(this.type, this.form, weights, io, options);
    const { x, out, gain = x } = io, { xOffset = 0, outOffset = 0, eps = 0 } = options, { cols, slices } = weights;
    const { lanes, held, workgroups } = this.variant, words = cols / WORD_COLUMNS[this.type]!;
    if (words > lanes * held) {
      throw new RangeError(
        `Cannot multiply a vector by weights as rows must be at most ${lanes * held} words for this kernel: ${words}`,
      );
    }
    const halves = this.form.gated ? 2 : 1, group = 8 / held / halves;
    for (const { row, rows: both, data, scales } of slices) {
      const rows = both / halves, span = group * Math.ceil(rows / workgroups / group);
      const params = { rows, words, quads: cols / 4, xQuad: xOffset / 4, outFirst: outOffset + row, span, eps };
      this.kernel.encode(commands, { weights: data, scales, x, gain, out }, params, [Math.ceil(rows / span)]);
    }
  }
}
