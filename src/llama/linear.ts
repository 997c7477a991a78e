/**
 * Matrices applied to activations: one token by the matrix-vector kernel, several by the matrix-matrix kernel.
 *
 * @module
 */
import type { WeightType } from "../core/model.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { Matmul, MATMUL_TILES } from "../kernels/matmul.ts";
import { Matvec, type MatvecForm } from "../kernels/matvec.ts";
import type { WeightMatrix } from "../kernels/weights.ts";

/** Products with matrices of any of a model's weight types, compiled once for each. */
export class Linear {
  readonly #vectors = new Map<string, Matvec>();
  readonly #matrices = new Map<string, Matmul>();

  private constructor(readonly gpu: Gpu) {}

  /** Compiles what the matrices of a model need, `forms` of each with one token. */
  static async create(gpu: Gpu, uses: readonly { matrix: WeightMatrix; form: MatvecForm }[]): Promise<Linear> {
    const linear = new Linear(gpu);
    for (const { matrix: { type, cols }, form } of uses) {
      const key = vectorKey(type, cols, form);
      if (!linear.#vectors.has(key)) linear.#vectors.set(key, await Matvec.create(gpu, { type, cols }, form));
      for (const { tokens } of MATMUL_TILES) {
        const residual = form.residual ?? false, at = matrixKey(type, tokens, residual);
        if (!linear.#matrices.has(at)) linear.#matrices.set(at, await Matmul.create(gpu, type, tokens, { residual }));
      }
    }
    return linear;
  }

  /** One token: `x f32 [cols]` from `xOffset` on, `out` from `outOffset` on. */
  vector(
    commands: Commands,
    matrix: WeightMatrix,
    form: MatvecForm,
    io: { x: Tensor; gain?: Tensor; out: Tensor },
    options: { xOffset?: number; outOffset?: number; eps?: number } = {},
  ): void {
    this.#vectors.get(vectorKey(matrix.type, matrix.cols, form))!.encode(commands, matrix, io, options);
  }

  /** Several tokens: `x f32 [T][cols]` to `out f32 [T][stride]` from `column` on. */
  rows(
    commands: Commands,
    matrix: WeightMatrix,
    io: { x: Tensor; out: Tensor },
    { residual = false, column = 0 } = {},
  ): void {
    const tokens = io.x.shape[0]!, tile = MATMUL_TILES.find((t) => tokens > t.tokens / 2) ?? MATMUL_TILES.at(-1)!;
    this.#matrices.get(matrixKey(matrix.type, tile.tokens, residual))!.encode(commands, matrix, io, { column });
  }
}

function vectorKey(
  type: WeightType,
  cols: number,
  { norm = false, residual = false, gated = false }: MatvecForm,
): string {
  return `${type},${cols},${norm},${residual},${gated}`;
}

function matrixKey(type: WeightType, tokens: number, residual: boolean): string {
  return `${type},${tokens},${residual}`;
}
