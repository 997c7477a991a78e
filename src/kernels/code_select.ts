import { BLOCK, blocks } from "../core/pack.ts";
import { codeSelectShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { code_select } from "../gpu/wgsl.gen.ts";

/** Takes the tokens whose error passes their head's threshold from another cache. Borrows every tensor. */
export class CodeSelect {
  private constructor(readonly kernel: Kernel<typeof code_select>, readonly headDim: number) {}

  static async create(gpu: Gpu, headDim: number): Promise<CodeSelect> {
    return new CodeSelect(await Kernel.create(gpu, code_select, { HEAD_DIM: headDim }), headDim);
  }

  /** As many tokens as the caches hold. */
  encode(commands: Commands, io: Buffers<typeof code_select>): void {
    const [heads = 0, capacity = 0] = io.residual.shape, tokens = io.toCache.shape[1]!, { headDim } = this;
    const dims = { heads, headDim, tokens, capacity: capacity * BLOCK, scales: io.scales.shape[0]! };
    expectShapes("choose tokens", io, codeSelectShapes(dims) satisfies Shapes<typeof code_select>);
    if (tokens > Math.min(capacity * BLOCK, dims.scales)) {
      throw new RangeError(`Cannot choose of ${tokens} tokens as there are residuals of ${capacity * BLOCK}`);
    }
    this.kernel.encode(commands, io, { tokens, capacity }, [blocks(tokens), heads]);
  }
}
