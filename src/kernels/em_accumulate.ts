import { type Stage, stageRows } from "../core/codec.ts";
import { EM_CHUNK, emAccumulateShapes, type EmDims } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { em_accumulate } from "../gpu/wgsl.gen.ts";
import { stageConstants } from "./stage.ts";

/** Sums for the M step, by chunks of tokens, from codes or, soft, from weights. Borrows every tensor. */
export class EmAccumulate {
  private constructor(readonly kernel: Kernel<typeof em_accumulate>, readonly isSoft: boolean) {}

  static async create(gpu: Gpu, headDim: number, stage: Stage, isSoft = false): Promise<EmAccumulate> {
    const constants = { ...stageConstants(headDim, stage), SOFT: isSoft, CHUNK: EM_CHUNK };
    return new EmAccumulate(await Kernel.create(gpu, em_accumulate, constants), isSoft);
  }

  /** Of `codes` and `weights` the one that is not read may be any tensor. */
  encode(commands: Commands, io: Buffers<typeof em_accumulate>, dims: EmDims): void {
    const { codes, weights, ...shapes } = emAccumulateShapes(dims) satisfies Shapes<typeof em_accumulate>;
    expectShapes("accumulate codewords", io, { ...shapes, ...this.isSoft ? { weights } : { codes } });
    const { headDim, heads, tokens, stage } = dims, blocks = io.residual.shape[1]!, chunks = io.sums.shape[1]!;
    const slices = Math.ceil(headDim / 32) * stageRows(stage) / 128 + 1;
    this.kernel.encode(commands, io, { tokens, blocks, chunks }, [chunks, slices, heads]);
  }
}
