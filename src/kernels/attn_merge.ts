import { type AttnMergeDims, attnMergeShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { attn_merge } from "../gpu/wgsl.gen.ts";

/** Workgroups along x, where z takes over: every device allows as many. */
const GRID_X = 32768;

/** Lanes on a CPU, which runs them in turn. */
const FALLBACK_LANES = 16;

/** How a row is laid over lanes. */
export interface AttnMergeVariant {
  readonly lanes: number;
  /** Lanes side by side, four channels each; the others share the splits. */
  readonly quads: number;
}

/** Picks lanes for `splits`: a lane for every four, and rows in pieces where that makes many. Pure. */
export function chooseAttnMerge(headDim: number, splits: number, maxLanes: number): AttnMergeVariant {
  const upTo = (count: number): number => 2 ** Math.ceil(Math.log2(count));
  const quads = Math.min(upTo(headDim / 4), splits > 16 ? 8 : maxLanes);
  return { quads, lanes: Math.min(256, maxLanes, Math.max(32, quads * upTo(Math.max(1, splits / 4)))) };
}

/** Folds the partial attention states of `splits` parts of the context into output rows. Borrows every tensor. */
export class AttnMerge {
  private constructor(readonly kernel: Kernel<typeof attn_merge>, readonly variant: AttnMergeVariant) {}

  /** `splits` says how many to be fast at; any number is right. */
  static async create(
    gpu: Gpu,
    headDim: number,
    options: { splits?: number; variant?: AttnMergeVariant } = {},
  ): Promise<AttnMerge> {
    const { splits = 64 } = options;
    const most = gpu.isFallback ? FALLBACK_LANES : gpu.limits.maxComputeInvocationsPerWorkgroup;
    const { variant = chooseAttnMerge(headDim, splits, most) } = options;
    const constants = { WG: variant.lanes, QUADS: variant.quads, HEAD_DIM: headDim };
    return new AttnMerge(await Kernel.create(gpu, attn_merge, constants), variant);
  }

  /** The partial tensors may have room for more states than the first `splits`, which are folded. */
  encode(commands: Commands, io: Buffers<typeof attn_merge>, dims: AttnMergeDims): void {
    const { rows, splits, headDim } = dims, room = io.partialO.shape[0]!;
    const shapes = attnMergeShapes({ rows, splits: room, headDim }) satisfies Shapes<typeof attn_merge>;
    expectShapes("merge attention states", io, shapes);
    if (!(splits >= 1 && splits <= room)) {
      throw new RangeError(`Cannot merge attention states as there must be 1 to ${room}: they are ${splits}`);
    }
    const x = Math.min(rows, GRID_X), y = Math.ceil(headDim / 4 / this.variant.quads);
    this.kernel.encode(commands, io, { rows, splits }, [x, y, Math.ceil(rows / x)]);
  }
}
