import { type AttnMergeDims, attnMergeShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { attn_merge } from "../gpu/wgsl.gen.ts";

/** Picks the lanes per workgroup: one per channel, capped by the device. Pure. */
export function chooseAttnMergeLanes(headDim: number, maxLanes: number): number {
  return Math.min(256, 2 ** Math.ceil(Math.log2(headDim)), maxLanes);
}

/** Folds the partial attention states of `splits` parts of the context into output rows. Borrows every tensor. */
export class AttnMerge {
  private constructor(readonly kernel: Kernel<typeof attn_merge>) {}

  static async create(gpu: Gpu, headDim: number, options: { lanes?: number } = {}): Promise<AttnMerge> {
    const { lanes = chooseAttnMergeLanes(headDim, gpu.limits.maxComputeInvocationsPerWorkgroup) } = options;
    return new AttnMerge(await Kernel.create(gpu, attn_merge, { WG: lanes, HEAD_DIM: headDim }));
  }

  encode(commands: Commands, io: Buffers<typeof attn_merge>, dims: AttnMergeDims): void {
    expectShapes("merge attention states", io, attnMergeShapes(dims) satisfies Shapes<typeof attn_merge>);
    this.kernel.encode(commands, io, { rows: dims.rows, splits: dims.splits }, [dims.rows]);
  }
}
