import { BLOCK, blocks } from "../core/pack.ts";
import { codeMissedShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { code_missed } from "../gpu/wgsl.gen.ts";
import { expectHeadDim } from "./stage.ts";

/** Finds the tokens that a codec's first stages miss by too much. Borrows every tensor. */
export class CodeMissed {
  private constructor(readonly kernel: Kernel<typeof code_missed>, readonly headDim: number) {}

  static async create(gpu: Gpu, headDim: number): Promise<CodeMissed> {
    expectHeadDim(headDim);
    return new CodeMissed(await Kernel.create(gpu, code_missed, { HEAD_DIM: headDim }), headDim);
  }

  /** Looks at the first `tokens` residuals; their scales begin at `scale`, a multiple of 32. */
  encode(
    commands: Commands,
    io: Buffers<typeof code_missed>,
    { tokens, scale }: { tokens: number; scale: number },
  ): void {
    const [heads = 0, capacity = 0] = io.residual.shape, scales = io.scales.shape[0]!;
    const dims = { heads, headDim: this.headDim, tokens: capacity * BLOCK, scales };
    expectShapes("find missed tokens", io, codeMissedShapes(dims) satisfies Shapes<typeof code_missed>);
    if (tokens > capacity * BLOCK || scale + tokens > scales || scale % BLOCK !== 0) {
      throw new RangeError(
        `Cannot find missed tokens among ${tokens} with scales from ${scale} on as there are ${capacity} blocks of ` +
          `residuals and ${scales} scales`,
      );
    }
    this.kernel.encode(commands, io, { tokens, capacity, scale }, [blocks(tokens), heads]);
  }
}
