import { type CodecShape, PAIR_WORDS, stageRows } from "../core/codec.ts";
import { codeGramShapes, stageSizes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { code_gram } from "../gpu/wgsl.gen.ts";
import { stageConstants } from "./stage.ts";

/** Stages of one kind that follow each other: one dispatch does them all. */
interface Run {
  readonly kernel: Kernel<typeof code_gram>;
  readonly group: number;
  readonly stageRows: number;
  readonly stageGram: number;
  stages: number;
}

/** Lengths and inner products of a codec's words, which the exact search needs. Borrows every tensor. */
export class CodeGram {
  private constructor(readonly codec: CodecShape, readonly runs: readonly Run[]) {}

  static async create(gpu: Gpu, codec: CodecShape): Promise<CodeGram> {
    const runs: Run[] = [];
    for (const stage of codec.stages) {
      const constants = stageConstants(codec.headDim, stage), group = constants.GROUP, last = runs.at(-1);
      if (last?.group === group) last.stages++;
      else {
        const TABLE = gpu.lanesTell ? "table_told" : "table_shared";
        const kernel = await Kernel.create(gpu, code_gram, { ...constants, TABLE }),
          { gram } = stageSizes(codec.headDim, stage);
        runs.push({ kernel, group, stageRows: stageRows(stage), stageGram: gram, stages: 1 });
      }
    }
    return new CodeGram(codec, runs);
  }

  encode(commands: Commands, io: Buffers<typeof code_gram>, heads: number): void {
    expectShapes("multiply codewords", io, codeGramShapes(heads, this.codec) satisfies Shapes<typeof code_gram>);
    const rows = io.table.shape[1]!, stride = io.gram.shape[1]!;
    let row = 0, at = 0;
    for (const { kernel, group, stageRows, stageGram, stages } of this.runs) {
      const x = group > 0 ? stageGram / 64 : 2 + PAIR_WORDS / 8;
      kernel.encode(commands, io, { rows, row, stride, at, stageRows, stageGram }, [x, heads, stages]);
      row += stages * stageRows;
      at += stages * stageGram;
    }
  }
}
