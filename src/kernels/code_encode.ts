import { codeBits, type CodecShape, fields, type Stage, stageRows } from "../core/codec.ts";
import { BLOCK, blocks } from "../core/pack.ts";
import { codeEncodeShapes, stageSizes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { code_encode } from "../gpu/wgsl.gen.ts";
import { expectHeadDim, stageConstants } from "./stage.ts";

/** What the kernel reads of each field, `u32 [fields][4]`: row, number of its gram, pair, pairs (0: a pair stage). */
export function encodeFields(codec: CodecShape): Uint32Array {
  const starts: number[] = [];
  codec.stages.reduce((at, stage) => (starts.push(at), at + stageSizes(codec.headDim, stage).gram), 0);
  return Uint32Array.from(
    fields(codec).flatMap(({ stage, group, row, pair, pairs, bits }) => [
      row,
      starts[stage]! / 4 + group * 64,
      pair,
      bits === 12 ? 0 : pairs,
    ]),
  );
}

/** Codes residuals, stage after stage, and packs the codes. Borrows every tensor. */
export class CodeEncode {
  private constructor(readonly kernel: Kernel<typeof code_encode>, readonly codec: CodecShape) {}

  static async create(gpu: Gpu, codec: CodecShape): Promise<CodeEncode> {
    expectHeadDim(codec.headDim);
    for (const stage of codec.stages) stageConstants(codec.headDim, stage);
    return new CodeEncode(await Kernel.create(gpu, code_encode, { HEAD_DIM: codec.headDim }), codec);
  }

  /** Codes the first `tokens` residuals to blocks of codes from `block` on. What codes miss is left in the residuals. */
  encode(
    commands: Commands,
    io: Buffers<typeof code_encode>,
    { tokens, block }: { tokens: number; block: number },
  ): void {
    const { codec } = this, [heads = 0, capacity = 0] = io.residual.shape, codeBlocks = io.codes.shape[0]!;
    const dims = { codec, heads, capacity: capacity * BLOCK, codeBlocks };
    expectShapes("encode", io, codeEncodeShapes(dims) satisfies Shapes<typeof code_encode>);
    if (tokens > capacity * BLOCK || block + blocks(tokens) > codeBlocks) {
      throw new RangeError(
        `Cannot encode ${tokens} tokens to block ${block} as there are ${capacity} blocks of residuals and ${codeBlocks} of codes`,
      );
    }
    const rows = codec.stages.reduce((sum, stage: Stage) => sum + stageRows(stage), 0);
    this.kernel.encode(commands, io, {
      ...{ tokens, capacity, rows, block },
      gram: io.gram.shape[1]! / 4,
      fields: io.fields.shape[0]!,
      bits: codeBits(codec),
    }, [blocks(tokens), heads]);
  }
}
