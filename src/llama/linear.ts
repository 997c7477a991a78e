/**
 * Matrices applied to activations: one token by a matrix-vector kernel, several by the matrix-matrix kernel.
 *
 * @module
 */
import type { WeightType } from "../core/model.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { Matmul } from "../kernels/matmul.ts";
import { Matvec } from "../kernels/matvec.ts";
import type { MatvecForm } from "../kernels/matvec_form.ts";
import { chooseMatvecPlanes, MatvecPlanes } from "../kernels/matvec_planes.ts";
import type { WeightMatrix } from "../kernels/weights.ts";

/** Products with matrices of any of a model's weight types, compiled once for each. */
export class Linear {
  readonly #vectors = new Map<string, Matvec | MatvecPlanes>();
  readonly #matrices = new Map<string, Matmul>();

  private constructor(readonly gpu: Gpu) {}

  /** Compiles what the matrices of a model need, `forms` of each with one token. */
  static async create(gpu: Gpu, uses: readonly { matrix: WeightMatrix; form: MatvecForm }[]): Promise<Linear> {
    const linear = new Linear(gpu);
    for (const { matrix, form } of uses) {
      const key = vectorKey(matrix, form), { residual = false } = form, at = matrixKey(matrix.type, residual);
      if (!linear.#vectors.has(key)) linear.#vectors.set(key, await createVector(gpu, matrix, form));
      if (!linear.#matrices.has(at)) linear.#matrices.set(at, await Matmul.create(gpu, matrix.type, { residual }));
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
    this.#vectors.get(vectorKey(matrix, form))!.encode(commands, matrix, io, options);
  }

  /** Several tokens: `x f32 [T][cols]` to `out f32 [T][stride]` from `column` on. */
  rows(
    commands: Commands,
    matrix: WeightMatrix,
    io: { x: Tensor; out: Tensor },
    { residual = false, column = 0 } = {},
  ): void {
    this.#matrices.get(matrixKey(matrix.type, residual))!.encode(commands, matrix, io, { column });
  }
}

function createVector(gpu: Gpu, matrix: WeightMatrix, form: MatvecForm): Promise<Matvec | MatvecPlanes> {
  const planes = chooseMatvecPlanes(matrix, gpu);
  return planes ? MatvecPlanes.create(gpu, matrix.type, form, planes) : Matvec.create(gpu, matrix, form);
}

function vectorKey(
  { type, rows, cols }: WeightMatrix,
  { norm = false, residual = false, gated = false }: MatvecForm,
): string {
  return `${type},${rows},${cols},${norm},${residual},${gated}`;
}

function matrixKey(type: WeightType, residual: boolean): string {
  return `${type},${residual}`;
}
