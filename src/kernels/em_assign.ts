import type { Stage } from "../core/codec.ts";
import { emAssignShapes, type EmDims } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { em_assign } from "../gpu/wgsl.gen.ts";
import { stageConstants } from "./stage.ts";

/** The E step of one stage: nearest words and distances of many heads' residuals. Borrows every tensor. */
export class EmAssign {
  private constructor(readonly kernel: Kernel<typeof em_assign>) {}

  static async create(gpu: Gpu, headDim: number, stage: Stage): Promise<EmAssign> {
    return new EmAssign(await Kernel.create(gpu, em_assign, stageConstants(headDim, stage)));
  }

  /** With `keep`, takes the words off the residuals. */
  encode(commands: Commands, io: Buffers<typeof em_assign>, dims: EmDims, keep = false): void {
    expectShapes("assign codewords", io, emAssignShapes(dims) satisfies Shapes<typeof em_assign>);
    const { tokens, heads } = dims, blocks = io.residual.shape[1]!;
    this.kernel.encode(commands, io, { tokens, blocks, keep: Number(keep) }, [blocks, heads]);
  }
}
