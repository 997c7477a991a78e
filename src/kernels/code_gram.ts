import { type CodecShape, type Stage, stageRows } from "../core/codec.ts";
import { codeGramShapes, stageSizes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { code_gram } from "../gpu/wgsl.gen.ts";
import { stageConstants } from "./stage.ts";

/** Lengths and inner products of a codec's words, which the exact search needs. Borrows every tensor. */
export class CodeGram {
  private constructor(readonly codec: CodecShape, readonly kernels: ReadonlyMap<Stage, Kernel<typeof code_gram>>) {}

  static async create(gpu: Gpu, codec: CodecShape): Promise<CodeGram> {
    const kernels = new Map<Stage, Kernel<typeof code_gram>>();
    for (const stage of codec.stages) {
      kernels.set(stage, await Kernel.create(gpu, code_gram, stageConstants(codec.headDim, stage)));
    }
    return new CodeGram(codec, kernels);
  }

  encode(commands: Commands, io: Buffers<typeof code_gram>, heads: number): void {
    expectShapes("multiply codewords", io, codeGramShapes(heads, this.codec) satisfies Shapes<typeof code_gram>);
    const rows = io.table.shape[1]!, stride = io.gram.shape[1]!;
    let row = 0, at = 0;
    for (const stage of this.codec.stages) {
      const { gram } = stageSizes(this.codec.headDim, stage);
      this.kernels.get(stage)!.encode(commands, io, { rows, row, stride, at }, [gram / 64, heads]);
      row += stageRows(stage);
      at += gram;
    }
  }
}
