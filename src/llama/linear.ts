/**
 * Matrices applied to activations. On a GPU one token goes by a matrix-vector kernel, several by the matrix-matrix kernel;
 * weights in texels have a kernel for any number.
 *
 * @module
 */
import { Rng } from "../core/rng.ts";
import { weightLayout } from "../core/weight_layout.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { Matmul } from "../kernels/matmul.ts";
import { MatmulTexels } from "../kernels/matmul_texels.ts";
import { Matvec } from "../kernels/matvec.ts";
import type { MatvecForm } from "../kernels/matvec_form.ts";
import { chooseMatvecPlanes, MatvecPlanes } from "../kernels/matvec_planes.ts";
import { WeightMatrix } from "../kernels/weights.ts";

/** Products with matrices of any of a model's weight types, compiled once for each. */
export class Linear {
  readonly #vectors = new Map<string, Matvec | MatvecPlanes>();
  readonly #matrices = new Map<string, Matmul | MatmulTexels>();

  private constructor(
    readonly gpu: Gpu,
    /** Whether one token has kernels of its own, with norms, gates and residuals in them: {@linkcode vector}. */
    readonly fuses: boolean,
  ) {}

  /** Compiles what the matrices of a model need, `forms` of each with one token. */
  static async create(gpu: Gpu, uses: readonly { matrix: WeightMatrix; form: MatvecForm }[]): Promise<Linear> {
    const linear = new Linear(gpu, !uses.some(({ matrix }) => matrix.texels));
    for (const { matrix, form } of uses) {
      const key = vectorKey(matrix, form), { residual = false } = form, at = matrixKey(matrix, residual);
      if (linear.fuses && !linear.#vectors.has(key)) linear.#vectors.set(key, await createVector(gpu, matrix, form));
      if (!linear.#matrices.has(at)) linear.#matrices.set(at, await createMatrix(gpu, matrix, residual));
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
    this.#matrices.get(matrixKey(matrix, residual))!.encode(commands, matrix, io, { column });
  }
}

/** The product in integers where it pays and this device's driver makes it rightly, else the one for any type. */
async function createVector(gpu: Gpu, matrix: WeightMatrix, form: MatvecForm): Promise<Matvec | MatvecPlanes> {
  const plain = await Matvec.create(gpu, matrix, form), variant = chooseMatvecPlanes(matrix, gpu);
  if (!variant) return plain;
  const planes = await MatvecPlanes.create(gpu, matrix.type, form, variant);
  return await agree(gpu, plain, planes, matrix, form) ? planes : plain;
}

function createMatrix(gpu: Gpu, matrix: WeightMatrix, residual: boolean): Promise<Matmul | MatmulTexels> {
  return matrix.texels ? MatmulTexels.create(gpu, matrix, { residual }) : Matmul.create(gpu, matrix.type, { residual });
}

/** Rows that two kernels are compared on: more than are made at a time, the last of them not whole. */
const COMPARED = 44;

/** Whether two kernels give the same product of a few made-up rows: subgroups and packed bytes are young in drivers. */
async function agree(
  gpu: Gpu,
  a: Matvec,
  b: MatvecPlanes,
  { type, cols }: WeightMatrix,
  form: MatvecForm,
): Promise<boolean> {
  const rng = new Rng(1), rows = COMPARED, block = type === "Q8_0" ? 34 : 18;
  const file = Uint8Array.from(
    { length: rows * weightLayout(type, cols).fileBytes },
    (_, i) => i % block === 0 ? 0 : i % block === 1 ? 0x20 : rng.below(256), // a scale of 2^-7
  );
  using weights = WeightMatrix.alloc(gpu, "rows to compare", { type, rows, cols }, { paired: form.gated });
  weights.write(0, file);
  const numbers = (): Float32Array => Float32Array.from({ length: cols }, () => rng.normal());
  using x = gpu.upload("x to compare", "f32", [cols], numbers()), gain = gpu.upload("gain", "f32", [cols], numbers());
  const results: Float32Array[] = [];
  for (const op of [a, b]) {
    using out = gpu.upload("out to compare", "f32", [rows], new Float32Array(rows).fill(1));
    const commands = gpu.commands("compare");
    op.encode(commands, weights, { x, gain, out }, { eps: 1e-5 });
    commands.submit();
    results.push(await gpu.readF32(out));
  }
  const [want, got] = results as [Float32Array, Float32Array], most = Math.max(...want.map(Math.abs));
  return want.every((y, i) => Math.abs(got[i]! - y) <= 1e-4 * most);
}

function vectorKey(
  { type, rows, cols }: WeightMatrix,
  { norm = false, residual = false, gated = false }: MatvecForm,
): string {
  return `${type},${rows},${cols},${norm},${residual},${gated}`;
}

function matrixKey({ type, cols, texels }: WeightMatrix, residual: boolean): string {
  return `${type},${texels && cols},${residual}`;
}
