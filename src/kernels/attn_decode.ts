import { attnDecodeShapes, type AttnDims } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { attn_decode } from "../gpu/wgsl.gen.ts";

/** Workgroups that keep a large GPU busy to the end: a few for each place that a workgroup can run in. */
const WORKGROUPS = 2048;
/** Splits past which the partial states cost more than they win. */
const MAX_SPLITS = 512;
/** Tokens that are worth a workgroup. */
const SPLIT_TOKENS = 64;

/** How the query heads of a key/value head, and the context, are laid over workgroups. */
export interface AttnDecodeVariant {
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
export function attnDecodeBytes({ heads, chunks, chunkLanes }: AttnDecodeVariant): number {
  return 4 * chunks * chunkLanes * 4 * (heads === 3 ? 4 : heads);
}

/** What the choice asks of a device. */
export interface AttnDecodeDevice {
  readonly limits: Pick<GPUSupportedLimits, "maxComputeInvocationsPerWorkgroup" | "maxComputeWorkgroupStorageSize">;
  /** Whether it is a CPU, which runs a workgroup's lanes in turn. */
  readonly isFallback: boolean;
}

/**
 * Picks the variant: heads in equal chunks of at most four, 64 lanes each where the device allows, on a CPU as few as a
 * token takes. Pure.
 */
export function chooseAttnDecode(
  { qHeads, kvHeads, headDim }: Omit<AttnDims, "tokens" | "capacity">,
  { limits, isFallback }: AttnDecodeDevice,
): AttnDecodeVariant {
  const group = qHeads / kvHeads, chunks = Math.ceil(group / 4), heads = Math.ceil(group / chunks);
  const tokenLanes = 2 ** Math.ceil(Math.log2(headDim / 8));
  const states = Math.min(MAX_SPLITS, Math.ceil(WORKGROUPS / kvHeads));
  for (let chunkLanes = isFallback ? tokenLanes : 64; chunkLanes >= tokenLanes; chunkLanes /= 2) {
    const variant = { heads, chunks, chunkLanes, tokenLanes, states };
    const fits = chunks * chunkLanes <= limits.maxComputeInvocationsPerWorkgroup &&
      attnDecodeBytes(variant) <= limits.maxComputeWorkgroupStorageSize;
    if (fits) return variant;
  }
  throw new RangeError(
    `Cannot attend with ${group} query heads a key/value head as a workgroup has at most ` +
      `${limits.maxComputeInvocationsPerWorkgroup} lanes: ${chunks * tokenLanes} are needed`,
  );
}

/** Splits of a context of `seen` slots for `tokens` new tokens: at most `states / tokens`, at least one. Pure. */
export function attnDecodeSplits({ states }: AttnDecodeVariant, seen: number, tokens = 1): number {
  return Math.max(1, Math.min(Math.floor(states / tokens), Math.ceil(seen / SPLIT_TOKENS)));
}

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
    readonly variant: AttnDecodeVariant,
  ) {}

  static async create(
    gpu: Gpu,
    dims: Omit<AttnDims, "tokens" | "capacity">,
    options: { variant?: AttnDecodeVariant } = {},
  ): Promise<AttnDecode> {
    const { variant = chooseAttnDecode(dims, gpu) } = options;
    const kernel = await Kernel.create(gpu, attn_decode, {
      HEADS_PART: `heads_${variant.heads}`,
      CHUNKS: variant.chunks,
      CHUNK_LANES: variant.chunkLanes,
      TOKEN_LANES: variant.tokenLanes,
      HEAD_DIM: dims.headDim,
      GROUP: dims.qHeads / dims.kvHeads,
    });
    return new AttnDecode(kernel, dims, variant);
  }

  /** Writes the partial states `state` and on, one a split, and returns how many. */
  encode(commands: Commands, io: Buffers<typeof attn_decode>, params: AttnDecodeParams): number {
    const { start, seen, tokens = 1, state = 0, splits = attnDecodeSplits(this.variant, seen, tokens) } = params;
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
