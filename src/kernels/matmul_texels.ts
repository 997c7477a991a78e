import type { WeightType } from "../core/model.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { Kernel } from "../gpu/kernel.ts";
import { Tensor } from "../gpu/tensor.ts";
import { matmul_texels } from "../gpu/wgsl.gen.ts";
import { matmulRuns, type MatmulTensors } from "./matmul_form.ts";
import { type WeightMatrix, weightPart, weightStore } from "./weights.ts";

/** Rows that a workgroup makes. */
const ROWS = 32;
/** Bytes of x that every device binds as uniform, and what it must begin at a multiple of. */
const UNIFORM_BYTES = 65536, ALIGNMENT = 256;

/** Fewer tokens go one by one: they do not earn what a driver takes to compile the kernel for more. */
const MANY = 32;

/** Tokens that a dispatch takes. */
export type TokenGroup = 1 | 2 | 4 | 8;

/** The most tokens of `cols` numbers that one dispatch can take; 0 where rows are too long, or of no whole lines. Pure. */
export function tokenGroup(cols: number): TokenGroup | 0 {
  if (4 * cols % ALIGNMENT !== 0) return 0;
  return ([8, 4, 2, 1] as const).find((tokens) => 4 * tokens * cols <= UNIFORM_BYTES) ?? 0;
}

/** Multiplies tokens by a matrix of weights in texels. Borrows every tensor. */
export class MatmulTexels {
  /** Groups of tokens of a tensor, so that their bind groups last as long as it does. */
  readonly #groups = new WeakMap<Tensor, Tensor[]>();

  private constructor(
    readonly kernels: ReadonlyMap<TokenGroup, Kernel<typeof matmul_texels>>,
    readonly group: TokenGroup,
    readonly type: WeightType,
    readonly cols: number,
  ) {}

  /** For matrices of `type` and `cols`, and any number of tokens. With `residual` it adds to out. */
  static async create(
    gpu: Gpu,
    { type, cols }: { readonly type: WeightType; readonly cols: number },
    { residual = false, group = tokenGroup(cols) }: { residual?: boolean; group?: TokenGroup | 0 } = {},
  ): Promise<MatmulTexels> {
    if (group === 0) {
      throw new RangeError(
        `Cannot multiply by weights in texels as rows must be multiples of 64 up to 16384 columns: ${cols}`,
      );
    }
    const kernels = new Map<TokenGroup, Kernel<typeof matmul_texels>>();
    for (const tokens of new Set([1, group] as const)) {
      const constants = { WEIGHT: weightPart(type), STORE: weightStore(true), QUADS: cols / 4, RESIDUAL: residual };
      kernels.set(tokens, await Kernel.create(gpu, matmul_texels, { ...constants, TOKENS: tokens }));
    }
    return new MatmulTexels(kernels, group, type, cols);
  }

  /**
   * Encodes a product of `x [T][cols]`, a dispatch for every group of tokens and slice of the matrix. `out [T][stride]`
   * gets it from column `column` on. x must lie in a buffer that holds whole groups of tokens.
   */
  encode(
    commands: Commands,
    weights: WeightMatrix,
    { x, out }: MatmulTensors,
    { column = 0 }: { readonly column?: number } = {},
  ): void {
    const tokens = x.shape[0]!, stride = out.shape[1]!, runs = matmulRuns(this.type, weights, { x, out }, column, true);
    if (weights.cols !== this.cols) {
      throw new TypeError(
        `Cannot multiply tokens by weights as this kernel is for ${this.cols} columns: they have ${weights.cols}`,
      );
    }
    const group = tokens < MANY ? 1 : this.group, kernel = this.kernels.get(group)!;
    this.#groupsOf(x, group).forEach((x, i) => {
      const token = i * group, own = { token, tokens: Math.min(group, tokens - token), stride };
      for (const { data, scales, ...run } of runs) {
        kernel.encode(commands, { weights: data, scales, x, out }, { ...run, ...own }, [Math.ceil(run.rows / ROWS)]);
      }
    });
  }

  #groupsOf(x: Tensor, group: TokenGroup): Tensor[] {
    const known = this.#groups.get(x);
    if (known) return known;
    const bytes = 4 * group * this.cols, count = Math.ceil(x.shape[0]! / group);
    if (x.byteOffset + count * bytes > x.buffer.size) {
      throw new RangeError(
        `Cannot multiply tokens by weights as '${x.label}' must lie in a buffer of whole groups of ${group} tokens`,
      );
    }
    const groups = Array.from({ length: count }, (_, i) => {
      return new Tensor(x.label, "f32", [group, this.cols], x.buffer, x.byteOffset + i * bytes);
    });
    this.#groups.set(x, groups);
    return groups;
  }
}
