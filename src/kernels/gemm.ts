import { type GemmDims, type GemmForm, gemmShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { gemm } from "../gpu/wgsl.gen.ts";

/** Side of a workgroup's tile of the product. */
export type GemmTile = 32 | 64 | 128;

/** Numbers along k that the largest tile takes at a time: parts are multiples of it, so that they are every tile's. */
const DEEPEST = 16;

/** Workgroup memory of a tile in bytes: both operands' blocks along k, each row a quad longer. */
export function gemmBytes(tile: GemmTile): number {
  return 2 * (tile / 8) * (tile / 4 + 1) * 16;
}

/** Picks the largest tile that the device holds and that is not larger than a product of `n` columns needs. Pure. */
export function chooseGemmTile(n: number, limits: { lanes: number; workgroupBytes: number }): GemmTile {
  for (const tile of [128, 64] as const) {
    if (n > tile / 2 && tile * tile / 64 <= limits.lanes && gemmBytes(tile) <= limits.workgroupBytes) return tile;
  }
  return 32;
}

/** Multiplies batches of f32 matrices. Borrows every tensor. */
export class Gemm {
  private constructor(
    readonly kernel: Kernel<typeof gemm>,
    readonly form: GemmForm,
    readonly tile: GemmTile,
  ) {}

  /** For products of `n` columns: compiled for the width, right for any. */
  static async create(gpu: Gpu, form: GemmForm, n: number, options: { tile?: GemmTile } = {}): Promise<Gemm> {
    const { aT = false, bT = false, bias = false } = form;
    if (bias && aT === bT) throw new RangeError("Cannot use a bias in gemm as its form must be forward or gradient");
    const { maxComputeInvocationsPerWorkgroup: lanes, maxComputeWorkgroupStorageSize: workgroupBytes } = gpu.limits;
    const { tile = chooseGemmTile(n, { lanes, workgroupBytes }) } = options;
    return new Gemm(await Kernel.create(gpu, gemm, { TILE: tile, A_T: aT, B_T: bT, BIAS: bias }), form, tile);
  }

  /** Throws `RangeError` where rows in memory are not multiples of 4 numbers. */
  encode(commands: Commands, io: Buffers<typeof gemm>, dims: GemmDims): void {
    const { batch, m, n, k, bStride, splits } = dims, { aT, bT } = this.form, { tile } = this;
    expectShapes("multiply matrices", io, gemmShapes(this.form, dims) satisfies Shapes<typeof gemm>);
    const rows = [n, aT ? m : k, bT ? k : n, bStride ?? 0, ...splits ? [splits.apart, splits.stride] : []];
    if (rows.some((row) => row % 4 !== 0)) {
      throw new RangeError(`Cannot multiply matrices as their rows must be multiples of 4 numbers: they are ${rows}`);
    }
    const count = splits?.count ?? 1;
    this.kernel.encode(commands, io, {
      m,
      n,
      k,
      splits: count,
      kSplit: Math.ceil(k / count / DEEPEST) * DEEPEST,
      bBatch: bStride ?? n * k + (this.form.bias && bT ? n : 0),
      cBatch: splits?.stride ?? m * n,
      cSplit: splits?.apart ?? 0,
    }, [Math.ceil(n / tile), Math.ceil(m / tile), batch * count]);
  }
}
