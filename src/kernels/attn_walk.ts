/**
 * How attention to one split a workgroup is laid out: what the kernels that import `attn_walk` share.
 *
 * @module
 */
import type { AttnDims } from "../core/shapes.ts";

/** Workgroups that keep a large GPU busy to the end: a few for each place that a workgroup can run in. */
const WORKGROUPS = 2048;
/** Splits past which the partial states cost more than they win. */
const MAX_SPLITS = 512;
/** Tokens that are worth a workgroup while a large GPU has room for more of them, and past that: a quarter of WORKGROUPS. */
const FEW_TOKENS = 32, MANY_TOKENS = 128, ROOM = 1 / 4;

/** How the query heads of a key/value head, and the context, are laid over workgroups. */
export interface AttnWalkVariant {
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
export function attnWalkBytes({ heads, chunks, chunkLanes }: AttnWalkVariant): number {
  return 4 * chunks * chunkLanes * 4 * (heads === 3 ? 4 : heads);
}

/** What the choice asks of a device. */
export interface AttnWalkDevice {
  readonly limits: Pick<GPUSupportedLimits, "maxComputeInvocationsPerWorkgroup" | "maxComputeWorkgroupStorageSize">;
  /** Whether it is a CPU, which runs a workgroup's lanes in turn. */
  readonly isFallback: boolean;
}

/**
 * Picks the variant: heads in equal chunks of at most four, 64 lanes each where the device allows, on a CPU as few as a
 * token takes. Pure.
 */
export function chooseAttnWalk(
  { qHeads, kvHeads, headDim }: Omit<AttnDims, "tokens" | "capacity">,
  { limits, isFallback }: AttnWalkDevice,
): AttnWalkVariant {
  const group = qHeads / kvHeads, chunks = Math.ceil(group / 4), heads = Math.ceil(group / chunks);
  const tokenLanes = 2 ** Math.ceil(Math.log2(headDim / 8));
  const states = Math.min(MAX_SPLITS, Math.ceil(WORKGROUPS / kvHeads));
  for (let chunkLanes = isFallback ? tokenLanes : 64; chunkLanes >= tokenLanes; chunkLanes /= 2) {
    const variant = { heads, chunks, chunkLanes, tokenLanes, states };
    const fits = chunks * chunkLanes <= limits.maxComputeInvocationsPerWorkgroup &&
      attnWalkBytes(variant) <= limits.maxComputeWorkgroupStorageSize;
    if (fits) return variant;
  }
  throw new RangeError(
    `Cannot attend with ${group} query heads a key/value head as a workgroup has at most ` +
      `${limits.maxComputeInvocationsPerWorkgroup} lanes: ${chunks * tokenLanes} are needed`,
  );
}

/** Constants of the kernels that attend to one split a workgroup. Pure. */
export function attnWalkConstants(
  { qHeads, kvHeads, headDim }: Omit<AttnDims, "tokens" | "capacity">,
  { heads, chunks, chunkLanes, tokenLanes }: AttnWalkVariant,
) {
  return {
    HEADS_PART: `heads_${heads}`,
    CHUNKS: chunks,
    CHUNK_LANES: chunkLanes,
    TOKEN_LANES: tokenLanes,
    HEAD_DIM: headDim,
    GROUP: qHeads / kvHeads,
  };
}

/** Splits of a context of `seen` slots for `tokens` new tokens: at most `states / tokens`, at least one. Pure. */
export function attnWalkSplits({ states }: AttnWalkVariant, seen: number, tokens = 1): number {
  const most = states / tokens, first = Math.min(Math.ceil(seen / FEW_TOKENS), Math.floor(ROOM * most));
  return Math.max(1, Math.min(Math.floor(most), Math.max(first, Math.ceil(seen / MANY_TOKENS))));
}
