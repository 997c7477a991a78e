import { type AttnDims, attnPrefillShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { attn_prefill } from "../gpu/wgsl.gen.ts";

/** Workgroups along x, where z takes over: every device allows as many. */
const GRID_X = 32768;
/** Bytes of a strip of eight vec4f and the one that keeps strips in different banks. */
const STRIP = 144;

/** Tile sizes. */
export interface AttnPrefillVariant {
  /** Rows, query heads of tokens, per workgroup: a multiple of 8. */
  readonly rows: number;
  /** Channels of queries and keys staged at once. */
  readonly slice: number;
  /** Values staged at once. */
  readonly held: number;
}

/** Lanes of one variant. */
export function attnPrefillLanes({ rows }: AttnPrefillVariant, headDim: number): number {
  return rows * headDim / 64;
}

/** Workgroup memory of one variant in bytes: weights, and what is staged of queries and keys or of values. */
export function attnPrefillBytes(variant: AttnPrefillVariant, headDim: number): number {
  const { rows, slice, held } = variant, ranks = rows / 8, files = headDim / 8;
  const scores = slice / 4 * (ranks + 1) + slice / 8 * (files + 1), values = held / 4 * files;
  return STRIP * (attnPrefillLanes(variant, headDim) + Math.max(scores, values));
}

/** Picks the most rows, up to 128 lanes, and then the largest stages that fit. Pure. */
export function chooseAttnPrefill(
  headDim: number,
  limits: Pick<GPUSupportedLimits, "maxComputeInvocationsPerWorkgroup" | "maxComputeWorkgroupStorageSize">,
): AttnPrefillVariant {
  const lanes = Math.min(128, limits.maxComputeInvocationsPerWorkgroup);
  const divisors = (whole: number, step: number): number[] =>
    [40, 32, 28, 24, 20, 16, 12, 8, 4].filter((size) => size % step === 0 && whole % size === 0);
  for (let rows = 128; rows >= 8; rows /= 2) {
    for (const slice of divisors(headDim, 8)) {
      for (const held of divisors(headDim / 2, 4)) {
        const variant = { rows, slice, held };
        const fits = attnPrefillLanes(variant, headDim) <= lanes &&
          attnPrefillBytes(variant, headDim) <= limits.maxComputeWorkgroupStorageSize;
        if (fits) return variant;
      }
    }
  }
  const least = attnPrefillBytes({ rows: 8, slice: 8, held: 4 }, headDim);
  throw new RangeError(
    `Cannot choose an attn_prefill tile as workgroup memory must be >= ${least} bytes: ` +
      `current limit is ${limits.maxComputeWorkgroupStorageSize}`,
  );
}

/** What one call attends to. */
export interface AttnPrefillParams {
  /** New tokens. */
  readonly tokens: number;
  /** First slot. */
  readonly start: number;
  /** Slots, from `start`, that the first new token sees, its own included; each later one sees one more. */
  readonly seen: number;
  /** The partial state to write, where the outputs are partial. */
  readonly state?: number;
  /** With a mask: how many newest slots, a token's own included, and how many first slots are near. */
  readonly window?: number;
  readonly sinks?: number;
}

/** What a token sees of the slots up to its own: the near ones, first and newest, or the others. */
export type AttnMask = "near" | "far";

/** Causal attention of many new tokens to an exact cache. Borrows every tensor. */
export class AttnPrefill {
  private constructor(
    readonly kernel: Kernel<typeof attn_prefill>,
    readonly dims: Omit<AttnDims, "tokens" | "capacity">,
    readonly variant: AttnPrefillVariant,
    readonly partial: boolean,
  ) {}

  /**
   * `partial: true` writes a partial state for `AttnMerge` instead of the attention itself, and so does a `mask`: a
   * near pass over one cache and a far pass over another are two states that merge.
   */
  static async create(
    gpu: Gpu,
    dims: Omit<AttnDims, "tokens" | "capacity">,
    options: { partial?: boolean; mask?: AttnMask; variant?: AttnPrefillVariant } = {},
  ): Promise<AttnPrefill> {
    const { qHeads, kvHeads, headDim } = dims, { mask } = options;
    const { partial = mask !== undefined, variant = chooseAttnPrefill(headDim, gpu.limits) } = options;
    const kernel = await Kernel.create(gpu, attn_prefill, {
      ROWS: variant.rows,
      HEAD_DIM: headDim,
      GROUP: qHeads / kvHeads,
      SLICE: variant.slice,
      HELD: variant.held,
      PARTIAL: partial,
      STRIPS: gpu.lanesTell && headDim / 8 % gpu.subgroupLanes === 0 ? "strips_told" : "strips_shared",
      MASK: mask && (mask === "near" ? 1 : 2),
    });
    return new AttnPrefill(kernel, { qHeads, kvHeads, headDim }, variant, partial);
  }

  encode(commands: Commands, io: Buffers<typeof attn_prefill>, params: AttnPrefillParams): void {
    const { tokens, start, seen, state = 0, window = 1, sinks = 0 } = params, { qHeads, kvHeads } = this.dims;
    const capacity = io.keys.shape[1]!, states = this.partial ? io.out.shape[0]! : undefined;
    const dims = { ...this.dims, tokens, capacity, states };
    expectShapes("attend to the cache", io, attnPrefillShapes(dims) satisfies Shapes<typeof attn_prefill>);
    if (!(seen >= 1 && start + seen + tokens - 1 <= capacity)) {
      throw new RangeError(
        `Cannot attend to slots ${start} to ${start + seen + tokens - 2} as a token sees at least one of the cache's ` +
          `${capacity}: the first sees ${seen}`,
      );
    }
    if (state >= (states ?? 1)) {
      throw new RangeError(`Cannot write partial state ${state} as there is room for ${states ?? 1}`);
    }
    if (!(window >= 1 && sinks >= 0)) {
      throw new RangeError(`Cannot mask slots as the window must be >= 1 and sinks >= 0: they are ${window}, ${sinks}`);
    }
    const tiles = Math.ceil(tokens * qHeads / kvHeads / this.variant.rows), x = Math.min(tiles, GRID_X);
    const fields = { tokens, start, seen, state, capacity, window, sinks };
    this.kernel.encode(commands, io, fields, [x, kvHeads, Math.ceil(tiles / x)]);
  }
}
