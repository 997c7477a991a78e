import { UNIT } from "../core/weight_layout.ts";
import type { WeightType } from "../core/model.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { Kernel } from "../gpu/kernel.ts";
import { matmul } from "../gpu/wgsl.gen.ts";
import { matmulRuns, type MatmulTensors } from "./matmul_form.ts";
import { type WeightMatrix, weightPart } from "./weights.ts";

/** Side of a workgroup's tile of the product. */
export type MatmulTile = 16 | 32 | 128;

/** The tiles there are, from the largest. */
export const MATMUL_TILES: readonly MatmulTile[] = [128, 32, 16];

/** Tiles that keep a large GPU busy: fewer of them leave some of its processors idle. */
const ENOUGH_TILES = 64;

/** Workgroup memory of a tile in bytes: a step along k of both operands, two units a lane in the smallest. */
export function matmulBytes(tile: MatmulTile): number {
  return tile === 16 ? 32768 : 16384;
}

/** Picks the largest tile of which there are enough, or the smallest that tokens fill; of `tiles`, as given. Pure. */
export function chooseMatmulTile(tokens: number, rows: number, tiles: readonly MatmulTile[]): MatmulTile {
  const count = (tile: number): number => Math.ceil(tokens / tile) * Math.ceil(rows / tile);
  const fits = (tile: MatmulTile): boolean =>
    tile === 128 ? tokens > 64 && count(tile) >= ENOUGH_TILES : tile === 32 ? tokens > 16 : true;
  return tiles.find(fits) ?? tiles.at(-1)!;
}

/** Multiplies tokens by a matrix of weights. Borrows every tensor. */
export class Matmul {
  private constructor(
    readonly kernels: ReadonlyMap<MatmulTile, Kernel<typeof matmul>>,
    readonly type: WeightType,
  ) {}

  /** For matrices of `type` and any number of tokens. With `residual` it adds to out. */
  static async create(
    gpu: Gpu,
    type: WeightType,
    options: { residual?: boolean; tiles?: readonly MatmulTile[] } = {},
  ): Promise<Matmul> {
    const { residual = false, tiles = MATMUL_TILES } = options, most = gpu.limits.maxComputeWorkgroupStorageSize;
    const kernels = new Map<MatmulTile, Kernel<typeof matmul>>();
    for (const tile of tiles.filter((tile) => matmulBytes(tile) <= most)) {
      const constants = { WEIGHT: weightPart(type), TILE: tile, RESIDUAL: residual };
      kernels.set(tile, await Kernel.create(gpu, matmul, constants));
    }
    return new Matmul(kernels, type);
  }

  /**
   * Encodes a product of `x [T][cols]`, one dispatch a slice of the matrix. `out [T][stride]` gets it from column
   * `column` on.
   */
  encode(
    commands: Commands,
    weights: WeightMatrix,
    { x, out }: MatmulTensors,
    { column = 0 }: { readonly column?: number } = {},
  ): void {
    const { rows, cols } = weights, tokens = x.shape[0]!, stride = out.shape[1]!;
    const tile = chooseMatmulTile(tokens, rows, [...this.kernels.keys()]), kernel = this.kernels.get(tile)!;
    for (const { data, scales, ...run } of matmulRuns(this.type, weights, { x, out }, column)) {
      const params = { ...run, tokens, units: Math.ceil(cols / UNIT), quads: cols / 4, stride };
      const grid = [Math.ceil(run.rows / tile), Math.ceil(tokens / tile)] as const;
      kernel.encode(commands, { weights: data, scales, x, out }, params, grid);
    }
  }
}
