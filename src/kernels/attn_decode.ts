import { attnDecodeShapes, type AttnDims } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { attn_decode } from "../gpu/wgsl.gen.ts";
import { attnWalkConstants, attnWalkSplits, type AttnWalkVariant, chooseAttnWalk } from "./attn_walk.ts";

/** What one call attends to. */
export interface AttnDecodeParams {
  /** First slot. */
  readonly start: number;
  /** Slots, from `start`, that the first new token sees; each later one sees one more. */
  readonly seen: number;
  /** New tokens. */
  readonly tokens?: number;
  /** Partial state of the first split. */
  readonly state?: number;
  /** Splits of the context. */
  readonly splits?: number;
}

/** Attention of a few new tokens to an exact cache, as partial states for `AttnMerge`. Borrows every tensor. */
export class AttnDecode {
  private constructor(
    readonly kernel: Kernel<typeof attn_decode>,
    readonly dims: Omit<AttnDims, "tokens" | "capacity">,
    readonly variant: AttnWalkVariant,
  ) {}

  static async create(
    gpu: Gpu,
    dims: Omit<AttnDims, "tokens" | "capacity">,
    options: { variant?: AttnWalkVariant } = {},
  ): Promise<AttnDecode> {
    const { variant = chooseAttnWalk(dims, gpu) } = options;
    return new AttnDecode(await Kernel.create(gpu, attn_decode, attnWalkConstants(dims, variant)), dims, variant);
  }

  /** Writes the partial states `state` and on, one a split, and returns how many. */
  encode(commands: Commands, io: Buffers<typeof attn_decode>, params: AttnDecodeParams): number {
    const { start, seen, tokens = 1, state = 0, splits = attnWalkSplits(this.variant, seen, tokens) } = params;
    const capacity = io.keys.shape[1]!,
      states = io.partialO.shape[0]!,
      dims = { ...this.dims, tokens, capacity, states };
    expectShapes("attend to the cache", io, attnDecodeShapes(dims) satisfies Shapes<typeof attn_decode>);
    if (start + seen + tokens - 1 > capacity) {
      throw new RangeError(
        `Cannot attend to slots ${start} to ${start + seen + tokens - 2} as the cache has ${capacity}`,
      );
    }
    if (state + splits > states) {
      throw new RangeError(
        `Cannot write partial states ${state} to ${state + splits - 1} as there is room for ${states}`,
      );
    }
    this.kernel.encode(commands, io, { start, seen, state, capacity }, [splits, this.dims.kvHeads, tokens]);
    return splits;
  }
}
