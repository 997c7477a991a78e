import { type CodecShape, tableRows } from "../core/codec.ts";
import { codeSearchShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { code_search } from "../gpu/wgsl.gen.ts";
import { expectHeadDim } from "./stage.ts";

/** A codec's words in the metric that they are compared in. Borrows every tensor. */
export class CodeSearch {
  private constructor(readonly kernel: Kernel<typeof code_search>, readonly codec: CodecShape) {}

  static async create(gpu: Gpu, codec: CodecShape): Promise<CodeSearch> {
    const { headDim } = codec, tell = gpu.lanesTell && headDim / 2 % gpu.subgroupLanes === 0; // a row has whole subgroups
    expectHeadDim(headDim);
    const constants = { HEAD_DIM: headDim, TABLE: tell ? "table_told" : "table_shared" };
    return new CodeSearch(await Kernel.create(gpu, code_search, constants), codec);
  }

  encode(commands: Commands, io: Buffers<typeof code_search>, heads: number): void {
    const { codec } = this, rows = tableRows(codec), lanes = rows / 8 * codec.headDim / 2;
    expectShapes("take words to a metric", io, codeSearchShapes(heads, codec) satisfies Shapes<typeof code_search>);
    this.kernel.encode(commands, io, { rows }, [Math.ceil(lanes / 64), heads]);
  }
}
