import { BLOCK } from "../core/pack.ts";
import { ropeTableRows } from "../core/rope_table.ts";
import { residualShape, type VectorDims } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel } from "../gpu/kernel.ts";
import { code_residual } from "../gpu/wgsl.gen.ts";
import { expectHeadDim } from "./stage.ts";

/** Where vectors come from: rows of f32, or an exact cache in half precision, whose keys may be rotated. */
export type VectorForm = "rows" | "cache" | "rotated cache";

/** Which tokens and heads of a source become residuals, and where. */
export interface ResidualSpan {
  readonly tokens: number;
  /** First slot of the cache, or first row. */
  readonly first?: number;
  /** Position of the first token; the others follow. Read where the source is rotated. */
  readonly position?: number;
  /** First number in a row. */
  readonly offset?: number;
  /** First head. */
  readonly head?: number;
  /** First block of the residuals. */
  readonly block?: number;
  /** First token of the scales, a multiple of 32. */
  readonly scale?: number;
}

/** Scales of tokens, and their heads as residuals of a codec's first stage. Borrows every tensor. */
export class CodeResidual {
  private constructor(
    readonly kernel: Kernel<typeof code_residual>,
    readonly dims: VectorDims,
    readonly form: VectorForm,
  ) {}

  static async create(gpu: Gpu, dims: VectorDims, form: VectorForm): Promise<CodeResidual> {
    expectHeadDim(dims.headDim);
    const constants = { HEAD_DIM: dims.headDim, KV_HEADS: dims.kvHeads };
    const forms = { CACHE: form !== "rows", ROTATED: form === "rotated cache" };
    return new CodeResidual(await Kernel.create(gpu, code_residual, { ...constants, ...forms }), dims, form);
  }

  /**
   * `residual f32 [heads][blocks][D][32]` may have fewer heads than there are, and room for more tokens; `scales f16 [T]`
   * likewise. `ropeTable` may be any tensor where the source is not rotated.
   */
  encode(commands: Commands, io: Buffers<typeof code_residual>, span: ResidualSpan): void {
    const { headDim, kvHeads } = this.dims;
    const { tokens, first = 0, position = 0, offset = 0, head = 0, block = 0, scale = 0 } = span;
    const [heads = 0, blocks = 0] = io.residual.shape, [outer = 0, capacity = 0, inner = 0] = io.source.shape;
    const room = this.form === "rows" ? [outer, kvHeads * headDim + offset] : [outer, capacity, inner];
    expectShapes("make residuals", { ...io, source: io.source }, {
      source: this.form === "rows" ? [outer, Math.max(capacity, room[1]!)] : [kvHeads, capacity, headDim / 2],
      residual: residualShape({ headDim, heads, tokens: blocks * BLOCK }),
    });
    if (this.form === "rotated cache") {
      expectShapes("make residuals", io, { ropeTable: [io.ropeTable.shape[0]!, headDim / 2, 2] });
      if (ropeTableRows(position + tokens) > io.ropeTable.shape[0]!) {
        throw new RangeError(
          `Cannot make residuals as the rope table must reach position ${position + tokens - 1}: it is too short`,
        );
      }
    }
    const slots = this.form === "rows" ? outer : capacity, count = Math.ceil(tokens / BLOCK);
    const fits = first + tokens <= slots && block + count <= blocks && head + heads <= kvHeads &&
      scale % BLOCK === 0 && scale + count * BLOCK <= io.scales.shape[0]!;
    if (!fits) {
      throw new RangeError(
        `Cannot make residuals of ${tokens} tokens from slot ${first} of ${slots} and head ${head} of ${kvHeads} as ` +
          `they must fit blocks ${block} to ${blocks} and scales ${scale} to ${io.scales.shape[0]}, whole blocks of 32`,
      );
    }
    this.kernel.encode(commands, io, {
      ...{ tokens, first, position, capacity, offset, block, blocks, heads },
      firstHead: head,
      scaleAt: scale / 2,
    }, [count]);
  }
}
