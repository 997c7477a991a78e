import { UNIT } from "../core/weight_layout.ts";
import type { WeightType } from "../core/model.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { expectShapes, Kernel } from "../gpu/kernel.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { matmul } from "../gpu/wgsl.gen.ts";
import { expectWeights, type WeightMatrix, weightPart } from "./weights.ts";

/** A tile of the product, and the side of a lane's block in it. */
export interface MatmulTile {
  readonly tokens: number;
  readonly rows: number;
  readonly block: 4 | 8;
}

/** The tiles there are, from the largest: for long prompts, for short ones, for a handful of tokens. */
export const MATMUL_TILES: readonly MatmulTile[] = [
  { tokens: 128, rows: 128, block: 8 },
  { tokens: 64, rows: 64, block: 4 },
  { tokens: 16, rows: 32, block: 4 },
];

/** Workgroup memory of a tile in bytes: a step along k of both operands, as long as the tile is low. */
export function matmulBytes({ tokens, rows }: MatmulTile): number {
  return 16 * (4 * 128 / tokens) * (tokens + rows);
}

/** Picks the tile for products of `tokens` tokens. Pure. */
export function chooseMatmulTile(tokens: number, workgroupBytes: number): MatmulTile {
  const fits = (tile: MatmulTile): boolean => matmulBytes(tile) <= workgroupBytes;
  return MATMUL_TILES.find((tile) => tokens > tile.tokens / 2 && fits(tile)) ?? MATMUL_TILES.findLast(fits)!;
}

/** Multiplies tokens by a matrix of weights. Borrows every tensor. */
export class Matmul {
  private constructor(readonly kernel: Kernel<typeof matmul>, readonly type: WeightType, readonly tile: MatmulTile) {}

  /** For matrices of `type`: compiled for a number of tokens, right for any. With `residual` it adds to out. */
  static async create(
    gpu: Gpu,
    type: WeightType,
    tokens: number,
    options: { residual?: boolean; tile?: MatmulTile } = {},
  ): Promise<Matmul> {
    const { residual = false, tile = chooseMatmulTile(tokens, gpu.limits.maxComputeWorkgroupStorageSize) } = options;
    const constants = {
      WEIGHT: weightPart(type),
      TILE_T: tile.tokens,
      TILE_N: tile.rows,
      BLOCK: tile.block,
      RESIDUAL: residual,
    };
    return new Matmul(await Kernel.create(gpu, matmul, constants), type, tile);
  }

  /**
   * Encodes a product of `x [T][cols]`, one dispatch a slice of the matrix. `out [T][stride]` gets it from column
   * `column` on.
   */
  encode(
    commands: Commands,
    weights: WeightMatrix,
    { x, out }: { readonly x: Tensor; readonly out: Tensor },
    { column = 0 }: { readonly column?: number } = {},
  ): void {
    const { rows, cols, slices, paired } = weights, tokens = x.shape[0]!, stride = out.shape[1]!;
    const action = "multiply tokens by weights";
    expectWeights(action, weights, this.type);
    expectShapes(action, { x, out }, { x: [tokens, cols], out: [tokens, stride] });
    if (column + rows > stride) {
      throw new TypeError(`Cannot ${action} as 'out' must have ${column + rows} columns: it has ${stride}`);
    }
    const { tokens: tileTokens, rows: tileRows } = this.tile, apart = paired && slices.length > 1;
    for (const { row, rows: held, data, scales } of slices) {
      const span = apart ? held / 2 : held;
      for (let first = 0, to = row; first < held; first += span, to += rows / 2) {
        const params = {
          tokens,
          rows: span,
          first,
          units: Math.ceil(cols / UNIT),
          quads: cols / 4,
          stride,
          column: column + to,
        };
        const grid = [Math.ceil(span / tileRows), Math.ceil(tokens / tileTokens)] as const;
        this.kernel.encode(commands, { weights: data, scales, x, out }, params, grid);
      }
    }
  }
}
