import { ropeTableRows } from "../core/rope_table.ts";
import { type AttnDims, attnStepShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { attn_step } from "../gpu/wgsl.gen.ts";
import { attnWalkConstants, attnWalkSplits, type AttnWalkVariant, chooseAttnWalk } from "./attn_walk.ts";

/** Rounds of tokens that one workgroup takes sooner than several and a merge of their states do. */
const ALONE = 8;

/** Splits of a context of `seen` slots: one while a workgroup takes it in a few rounds, and none has to be merged. Pure. */
export function attnStepSplits(variant: AttnWalkVariant, seen: number): number {
  return seen <= ALONE * 4 * variant.chunkLanes / variant.tokenLanes ? 1 : attnWalkSplits(variant, seen);
}

/**
 * One token's attention to an exact cache that it is first put into: `RopeStore` and `AttnDecode` in one dispatch. Borrows
 * every tensor.
 */
export class AttnStep {
  private constructor(
    readonly kernel: Kernel<typeof attn_step>,
    readonly dims: Omit<AttnDims, "tokens" | "capacity">,
    readonly variant: AttnWalkVariant,
  ) {}

  static async create(
    gpu: Gpu,
    dims: Omit<AttnDims, "tokens" | "capacity">,
    options: { variant?: AttnWalkVariant } = {},
  ): Promise<AttnStep> {
    const { variant = chooseAttnWalk(dims, gpu) } = options;
    return new AttnStep(await Kernel.create(gpu, attn_step, attnWalkConstants(dims, variant)), dims, variant);
  }

  /** Splits of the context of a token at `position`. */
  splits(position: number): number {
    return attnStepSplits(this.variant, position + 1);
  }

  /**
   * Stores the token at slot `position` and writes the partial states `0` to `splits - 1` of its attention to that and all
   * before it; of a single split the state's output is the attention itself.
   */
  encode(
    commands: Commands,
    io: Buffers<typeof attn_step>,
    { position, splits = this.splits(position) }: { readonly position: number; readonly splits?: number },
  ): void {
    const capacity = io.keys.shape[1]!, states = io.partialO.shape[0]!, tableRows = io.ropeTable.shape[0]!;
    const shapes = attnStepShapes({ ...this.dims, capacity, states, tableRows });
    expectShapes("attend to the cache", io, shapes satisfies Shapes<typeof attn_step>);
    if (position >= capacity) throw new RangeError(`Cannot store slot ${position} as the cache has ${capacity}`);
    if (ropeTableRows(position + 1) > tableRows) {
      throw new RangeError(`Cannot rotate to position ${position} as the rope table ends before it`);
    }
    if (splits > states) {
      throw new RangeError(`Cannot write ${splits} partial states as there is room for ${states}`);
    }
    const params = { position, capacity, whole: splits === 1 ? 1 : 0 };
    this.kernel.encode(commands, io, params, [splits, this.dims.kvHeads]);
  }
}
