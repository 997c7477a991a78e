import type { CodecShape } from "../core/codec.ts";
import { BLOCK } from "../core/pack.ts";
import { codeDecodeShapes, type CodeDims } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel } from "../gpu/kernel.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { code_decode } from "../gpu/wgsl.gen.ts";
import { codeConstants, type WordsPart } from "./packed_codes.ts";

type Io = Omit<Buffers<typeof code_decode>, "positions"> & { readonly positions?: Tensor };

/** Which tokens are decoded, and where they go. */
export interface CodeDecodeParams {
  /** First token of the stream, a multiple of 8. */
  readonly first?: number;
  readonly tokens: number;
  /** Cache slot of the first. */
  readonly slot?: number;
  /** Position of the stream's token 0, or what is added to its list of positions. */
  readonly base?: number;
}

/** Decodes packed codes to vectors in half precision, as an exact cache holds them. Borrows every tensor. */
export class CodeDecode {
  private constructor(readonly kernel: Kernel<typeof code_decode>, readonly dims: Omit<CodeDims, "codeBlocks">) {}

  /** `rotate` turns keys to their positions; `isRun: false` takes these from a list, `positions u32 [K][T]`. */
  static async create(
    gpu: Gpu,
    codec: CodecShape,
    kvHeads: number,
    options: { rotate?: boolean; isRun?: boolean; words?: WordsPart } = {},
  ): Promise<CodeDecode> {
    const { rotate = false, isRun = true, words = "words_half" } = options;
    const constants = { ROTATE: rotate, POSITIONS: isRun ? "positions_run" : "positions_list", WORDS: words };
    const kernel = await Kernel.create(gpu, code_decode, { ...codeConstants(codec), ...constants });
    return new CodeDecode(kernel, { codec, kvHeads });
  }

  encode(commands: Commands, io: Io, { first = 0, tokens, slot = 0, base = 0 }: CodeDecodeParams): void {
    const codeBlocks = io.codes.shape[0]!, capacity = io.out.shape[1]!, tableRows = io.ropeTable.shape[0]!;
    const stream = io.positions?.shape[1], dims = { ...this.dims, codeBlocks, capacity, tableRows, stream };
    expectShapes("decode", { ...io }, codeDecodeShapes(dims) as Record<string, readonly number[]>);
    if (first % 8 !== 0 || first + tokens > codeBlocks * BLOCK || slot + tokens > capacity) {
      throw new RangeError(
        `Cannot decode tokens ${first} to ${
          first + tokens - 1
        } to slot ${slot} as the first must be a multiple of 8, ` +
          `there are ${codeBlocks} blocks of codes and ${capacity} slots`,
      );
    }
    const items = Math.ceil(tokens / 8) * this.dims.codec.headDim / 8,
      all = { ...io, positions: io.positions ?? io.scales };
    const params = { base, first, tokens, slot, capacity, stream: stream ?? 0 };
    this.kernel.encode(commands, all, params, [Math.ceil(items / 64), this.dims.kvHeads]);
  }
}
