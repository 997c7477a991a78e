import { type CodecShape, tableRows } from "../core/codec.ts";
import { qTableShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { q_table } from "../gpu/wgsl.gen.ts";
import { codeConstants } from "./packed_codes.ts";

/** Axes of a table of queries times words. */
export interface QTableDims {
  readonly qHeads: number;
  readonly kvHeads: number;
  readonly codec: CodecShape;
}

/** Multiplies every word by every query: what the commuted form of the scores looks up. Borrows every tensor. */
export class QTable {
  private constructor(readonly kernel: Kernel<typeof q_table>, readonly dims: QTableDims) {}

  static async create(gpu: Gpu, dims: QTableDims): Promise<QTable> {
    const { HEAD_DIM } = codeConstants(dims.codec);
    return new QTable(await Kernel.create(gpu, q_table, { HEAD_DIM, GROUP: dims.qHeads / dims.kvHeads }), dims);
  }

  encode(commands: Commands, io: Buffers<typeof q_table>): void {
    const { qHeads, codec } = this.dims, rows = tableRows(codec);
    expectShapes("multiply words by queries", io, qTableShapes(this.dims) satisfies Shapes<typeof q_table>);
    this.kernel.encode(commands, io, { rows }, [Math.ceil(rows * codec.headDim / 8 / 64), qHeads]);
  }
}
