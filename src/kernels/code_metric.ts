import { BLOCK } from "../core/pack.ts";
import { codeMetricShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { code_metric } from "../gpu/wgsl.gen.ts";
import { expectHeadDim } from "./stage.ts";

/** Takes residuals to the space that they are coded in, by a matrix a head. Borrows every tensor. */
export class CodeMetric {
  private constructor(readonly kernel: Kernel<typeof code_metric>, readonly headDim: number) {}

  static async create(gpu: Gpu, headDim: number): Promise<CodeMetric> {
    expectHeadDim(headDim);
    return new CodeMetric(await Kernel.create(gpu, code_metric, { HEAD_DIM: headDim }), headDim);
  }

  /** Multiplies the residuals of the first `blocks` blocks of 32 tokens, in place. */
  encode(commands: Commands, io: Buffers<typeof code_metric>, blocks: number): void {
    const [heads = 0, room = 0] = io.residual.shape, dims = { heads, headDim: this.headDim, tokens: room * BLOCK };
    expectShapes("apply a metric", io, codeMetricShapes(dims) satisfies Shapes<typeof code_metric>);
    if (blocks > room) throw new RangeError(`Cannot apply a metric to ${blocks} blocks as there are ${room}`);
    this.kernel.encode(commands, io, { blocks: room }, [blocks, heads]);
  }
}
