import type { CodecShape } from "../core/codec.ts";
import { BLOCK } from "../core/pack.ts";
import { codeDecodeShapes, type CodeDims } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel } from "../gpu/kernel.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { code_decode } from "../gpu/wgsl.gen.ts";
import { codeConstants, expectMore, type WordsPart } from "./packed_codes.ts";

type Io = Omit<Buffers<typeof code_decode>, "more"> & { readonly more?: Tensor };

/** Which tokens are decoded, and where they go. */
export interface CodeDecodeParams {
  /** First token of the stream, a multiple of 8. */
  readonly first?: number;
  readonly tokens: number;
  /** Cache slot of the first. */
  readonly slot?: number;
  /** Position of the stream's token 0. */
  readonly base?: number;
}

/** Decodes packed codes to vectors in half precision, as an exact cache holds them. Borrows every tensor. */
export class CodeDecode {
  private constructor(readonly kernel: Kernel<typeof code_decode>, readonly dims: Omit<CodeDims, "codeBlocks">) {}

  /** `rotate` turns keys to their positions. */
  static async create(
    gpu: Gpu,
    codec: CodecShape,
    kvHeads: number,
    options: { rotate?: boolean; words?: WordsPart } = {},
  ): Promise<CodeDecode> {
    const { rotate = false, words = "words_half" } = options;
    const constants = { ...codeConstants(codec), ROTATE: rotate, WORDS: words };
    const kernel = await Kernel.create(gpu, code_decode, constants);
    return new CodeDecode(kernel, { codec, kvHeads });
  }

  /** `more` are further codes, where the codec has tiers. */
  encode(commands: Commands, io: Io, { first = 0, tokens, slot = 0, base = 0 }: CodeDecodeParams): void {
    const { kvHeads, codec } = this.dims, codeBlocks = io.codes.shape[0]!, capacity = io.out.shape[1]!;
    const dims = { ...this.dims, codeBlocks, capacity, tableRows: io.ropeTable.shape[0]! };
    expectShapes("decode", { ...io }, codeDecodeShapes(dims));
    if (first % 8 !== 0 || first + tokens > codeBlocks * BLOCK || slot + tokens > capacity) {
      throw new RangeError(
        `Cannot decode tokens ${first} to ${
          first + tokens - 1
        } to slot ${slot} as the first must be a multiple of 8, ` +
          `there are ${codeBlocks} blocks of codes and ${capacity} slots`,
      );
    }
    const items = Math.ceil(tokens / 8) * codec.headDim / 8, all = { ...io, more: io.more ?? io.codes };
    expectMore(codec, kvHeads, codeBlocks, io.more);
    const params = { base, first, tokens, slot, capacity };
    this.kernel.encode(commands, all, params, [Math.ceil(items / 64), kvHeads]);
  }
}
