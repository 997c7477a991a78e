import { baseOf, type CodecShape, fields, moreBits, rawCount } from "../core/codec.ts";
import { BLOCK, blocks } from "../core/pack.ts";
import { codeTierShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { code_tier } from "../gpu/wgsl.gen.ts";
import { expectMore } from "./packed_codes.ts";

/** Which tokens are looked at. */
export interface CodeTierParams {
  readonly tokens: number;
  /** Block of the first, in `more`. */
  readonly block: number;
  /** Blocks of the index, and tokens of the block before the first that count: 0 where none comes before. */
  readonly codeBlocks: number;
  readonly held: number;
}

/** Gives further codes to the tokens that a codec's first stages miss by too much. Borrows every tensor. */
export class CodeTier {
  private constructor(readonly kernel: Kernel<typeof code_tier>, readonly codec: CodecShape) {}

  static async create(gpu: Gpu, codec: CodecShape): Promise<CodeTier> {
    const FEW = fields(baseOf(codec)).length, FIELDS = rawCount(codec), MORE_BITS = moreBits(codec);
    return new CodeTier(
      await Kernel.create(gpu, code_tier, { FIELDS, FEW, MORE_BITS }),
      codec,
    );
  }

  encode(commands: Commands, io: Buffers<typeof code_tier>, params: CodeTierParams): void {
    const { codec } = this, { tokens, block, codeBlocks, held } = params, [heads = 0, capacity = 0] = io.missed.shape;
    const dims = { codec, heads, capacity: capacity * BLOCK, more: io.more.shape[0]! };
    expectShapes("give further codes", io, codeTierShapes(dims) satisfies Shapes<typeof code_tier>);
    if (tokens > capacity * BLOCK || block + blocks(tokens) > codeBlocks) {
      throw new RangeError(
        `Cannot give further codes to ${tokens} tokens from block ${block} on as there are codes of ${
          capacity * BLOCK
        } and ${codeBlocks} blocks`,
      );
    }
    expectMore(codec, heads, codeBlocks, io.more);
    const numbers = { tokens, capacity, block, held: block > 0 ? held : 0 };
    this.kernel.encode(commands, io, numbers, [heads]);
  }
}
