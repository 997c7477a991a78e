import { codeBits, type CodecShape, fields } from "../core/codec.ts";
import { BLOCK, blocks } from "../core/pack.ts";
import { codePackShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { code_pack } from "../gpu/wgsl.gen.ts";

/** Packs codes that lie token by token. Borrows every tensor. */
export class CodePack {
  private constructor(readonly kernel: Kernel<typeof code_pack>, readonly codec: CodecShape) {}

  static async create(gpu: Gpu, codec: CodecShape): Promise<CodePack> {
    return new CodePack(await Kernel.create(gpu, code_pack, { FIELDS: fields(codec).length }), codec);
  }

  /** Packs the codes of the first `tokens` tokens to blocks from `block` on. */
  encode(
    commands: Commands,
    io: Buffers<typeof code_pack>,
    { tokens, block }: { tokens: number; block: number },
  ): void {
    const { codec } = this, [heads = 0, capacity = 0] = io.raw.shape, codeBlocks = io.codes.shape[0]!;
    const dims = { codec, heads, capacity: capacity * BLOCK, codeBlocks };
    expectShapes("pack codes", io, codePackShapes(dims) satisfies Shapes<typeof code_pack>);
    if (tokens > capacity * BLOCK || block + blocks(tokens) > codeBlocks) {
      throw new RangeError(
        `Cannot pack ${tokens} tokens to block ${block} as there are ${capacity} blocks of codes and room for ${codeBlocks}`,
      );
    }
    this.kernel.encode(commands, io, { tokens, capacity, bits: codeBits(codec), block }, [blocks(tokens), heads]);
  }
}
