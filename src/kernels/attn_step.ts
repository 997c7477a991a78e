import { ropeTableRows } from "../core/rope_table.ts";
import { type AttnDims, attnStepShapes, type StepTokens } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { attn_step } from "../gpu/wgsl.gen.ts";

/** Workgroups that keep a large GPU busy: about four a processor; and so many times as many where a lane has one head. */
const WORKGROUPS = 512, LIGHT = 4;
/** Splits past which the partial states cost more than they win. */
const MAX_SPLITS = 512;
/** Tokens that are worth a workgroup. */
const SPLIT_TOKENS = 32;
/** Rounds of tokens that one workgroup takes sooner than several and a merge of their states do. */
const ALONE = 8;

/** Heads, and their channels. */
type Dims = Omit<AttnDims, "tokens" | "capacity">;

/** How the query heads of a key/value head, and the context, are laid over workgroups. */
export interface AttnStepVariant {
  /** Query heads that a lane takes at once: 1 to 4. */
  readonly heads: number;
  /** Such chunks of heads in a workgroup. */
  readonly chunks: number;
  /** Lanes of a chunk. */
  readonly chunkLanes: number;
  /** Lanes of a token's row. */
  readonly tokenLanes: number;
  /** The most partial states per query head that one call writes: room for them is allocated once. */
  readonly states: number;
}

/** Workgroup memory in bytes: four numbers for each lane's heads. */
export function attnStepBytes({ heads, chunks, chunkLanes }: AttnStepVariant): number {
  return 4 * chunks * chunkLanes * 4 * (heads === 3 ? 4 : heads);
}

/** What the choice asks of a device. */
export interface AttnStepDevice {
  readonly limits: Pick<GPUSupportedLimits, "maxComputeInvocationsPerWorkgroup" | "maxComputeWorkgroupStorageSize">;
  /** Whether it is a CPU, which runs a workgroup's lanes in turn. */
  readonly isFallback: boolean;
}

/**
 * Picks the variant: heads in equal chunks of at most four, 64 lanes each where the device allows, on a CPU as few as a
 * token takes. Pure.
 */
export function chooseAttnStep(
  { qHeads, kvHeads, headDim }: Dims,
  { limits, isFallback }: AttnStepDevice,
): AttnStepVariant {
  const group = qHeads / kvHeads, chunks = Math.ceil(group / 4), heads = Math.ceil(group / chunks);
  const tokenLanes = 2 ** Math.ceil(Math.log2(headDim / 8));
  const states = Math.min(MAX_SPLITS, Math.ceil((heads === 1 ? LIGHT : 1) * WORKGROUPS / kvHeads));
  for (let chunkLanes = isFallback ? tokenLanes : 64; chunkLanes >= tokenLanes; chunkLanes /= 2) {
    const variant = { heads, chunks, chunkLanes, tokenLanes, states };
    const fits = chunks * chunkLanes <= limits.maxComputeInvocationsPerWorkgroup &&
      attnStepBytes(variant) <= limits.maxComputeWorkgroupStorageSize;
    if (fits) return variant;
  }
  throw new RangeError(
    `Cannot attend with ${group} query heads a key/value head as a workgroup has at most ` +
      `${limits.maxComputeInvocationsPerWorkgroup} lanes: ${chunks * tokenLanes} are needed`,
  );
}

/** Splits of a context of `seen` tokens: one while a workgroup takes it in a few rounds, and none has to be merged. Pure. */
export function attnStepSplits({ chunkLanes, tokenLanes, states }: AttnStepVariant, seen: number): number {
  return seen <= ALONE * 4 * chunkLanes / tokenLanes ? 1 : Math.min(states, Math.ceil(seen / SPLIT_TOKENS));
}

/** What one call does. */
export interface AttnStepParams extends StepTokens {
  /** Whether the output of a single split is to be the attention itself, with nothing to merge. */
  readonly isWhole?: boolean;
}

/** Puts one token into a cache and attends to what that holds, as partial states for `AttnMerge`. Borrows every tensor. */
export class AttnStep {
  private constructor(
    readonly kernel: Kernel<typeof attn_step>,
    readonly dims: Dims,
    readonly variant: AttnStepVariant,
  ) {}

  /** `hasGap` allows for a gap in the slots of what is seen, which other kernels pass over. */
  static async create(
    gpu: Gpu,
    dims: Dims,
    options: { hasGap?: boolean; variant?: AttnStepVariant } = {},
  ): Promise<AttnStep> {
    const { hasGap = false, variant = chooseAttnStep(dims, gpu) } = options;
    const kernel = await Kernel.create(gpu, attn_step, {
      HEADS_PART: `heads_${variant.heads}`,
      CHUNKS: variant.chunks,
      CHUNK_LANES: variant.chunkLanes,
      TOKEN_LANES: variant.tokenLanes,
      HEAD_DIM: dims.headDim,
      GROUP: dims.qHeads / dims.kvHeads,
      HAS_GAP: hasGap,
    });
    return new AttnStep(kernel, dims, variant);
  }

  /** Splits of so many tokens. */
  splits(seen: number): number {
    return attnStepSplits(this.variant, seen);
  }

  /**
   * Stores the token's key and value, leaves its queries in `q`, turned and scaled, and writes the partial states `0` to
   * `splits - 1`, by default as many as {@linkcode AttnStep.splits} says.
   */
  encode(commands: Commands, io: Buffers<typeof attn_step>, params: AttnStepParams): void {
    const { position, slot = position, seen = position + 1, hole = seen, gap = 0 } = params;
    const { splits = this.splits(seen), isWhole = false } = params;
    const capacity = io.keys.shape[1]!, states = io.partialO.shape[0]!, tableRows = io.ropeTable.shape[0]!;
    const shapes = attnStepShapes({ ...this.dims, capacity, states, tableRows });
    expectShapes("attend to the cache", io, shapes satisfies Shapes<typeof attn_step>);
    if (slot >= capacity || seen + gap > capacity) {
      throw new RangeError(
        `Cannot attend to slots 0 to ${Math.max(slot, seen + gap - 1)} as the cache has ${capacity}`,
      );
    }
    if (ropeTableRows(position + 1) > tableRows) {
      throw new RangeError(`Cannot rotate to position ${position} as the rope table ends before it`);
    }
    if (splits > states || isWhole && splits > 1) {
      throw new RangeError(`Cannot write ${splits} partial states as there is room for ${isWhole ? 1 : states}`);
    }
    const whole = isWhole ? 1 : 0;
    this.kernel.encode(commands, io, { position, slot, seen, hole, gap, capacity, whole }, [splits, this.dims.kvHeads]);
  }
}
