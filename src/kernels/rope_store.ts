import { type AttnDims, ropeStoreShapes } from "../core/shapes.ts";
import { ropeTableRows } from "../core/rope_table.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { rope_store } from "../gpu/wgsl.gen.ts";

/** Workgroups along y, where z takes over: every device allows as many. */
const GRID_Y = 32768;

/** Where a chunk goes. */
export interface RopeStoreParams {
  /** Tokens of the chunk. */
  readonly tokens: number;
  /** Position of the first. */
  readonly position: number;
  /** Cache slot of the first. */
  readonly slot: number;
}

/**
 * Rotates a chunk's queries and keys to their positions, scales the queries by `1/sqrt(D)`, and stores keys and values
 * in an exact cache. Borrows every tensor.
 */
export class RopeStore {
  private constructor(
    readonly kernel: Kernel<typeof rope_store>,
    readonly dims: Omit<AttnDims, "tokens" | "capacity">,
  ) {}

  /** `rotateKeys: false` stores the keys as they come, for a codec that wants them before their rotation. */
  static async create(
    gpu: Gpu,
    dims: Omit<AttnDims, "tokens" | "capacity">,
    options: { rotateKeys?: boolean } = {},
  ): Promise<RopeStore> {
    const { qHeads, kvHeads, headDim } = dims;
    const constants = { HEAD_DIM: headDim, Q_HEADS: qHeads, KV_HEADS: kvHeads, ROTATE_KEYS: options.rotateKeys };
    return new RopeStore(await Kernel.create(gpu, rope_store, constants), { qHeads, kvHeads, headDim });
  }

  encode(commands: Commands, io: Buffers<typeof rope_store>, { tokens, position, slot }: RopeStoreParams): void {
    const { qHeads, kvHeads, headDim } = this.dims, capacity = io.keys.shape[1]!, tableRows = io.ropeTable.shape[0]!;
    const dims = { tokens, qHeads, kvHeads, headDim, capacity, tableRows };
    expectShapes("store keys and values", io, ropeStoreShapes(dims) satisfies Shapes<typeof rope_store>);
    if (slot + tokens > capacity) {
      throw new RangeError(`Cannot store slots ${slot} to ${slot + tokens - 1} as the cache has ${capacity}`);
    }
    if (ropeTableRows(position + tokens) > tableRows) {
      throw new RangeError(`Cannot rotate to position ${position + tokens - 1} as the rope table ends before it`);
    }
    const items = (qHeads + 2 * kvHeads) * headDim / 8, y = Math.min(tokens, GRID_Y);
    const grid = [Math.ceil(items / 64), y, Math.ceil(tokens / y)] as const;
    this.kernel.encode(commands, io, { tokens, position, slot, capacity }, grid);
  }
}
