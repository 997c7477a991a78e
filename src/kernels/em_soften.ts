import { type EmDims, emSoftenShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { em_soften } from "../gpu/wgsl.gen.ts";
import { expectHeadDim } from "./stage.ts";

/** The soft E step of a pair stage: what each token weighs for each word, and how often words meet. Borrows every tensor. */
export class EmSoften {
  private constructor(readonly kernel: Kernel<typeof em_soften>) {}

  static async create(gpu: Gpu, headDim: number): Promise<EmSoften> {
    expectHeadDim(headDim);
    return new EmSoften(await Kernel.create(gpu, em_soften, { HEAD_DIM: headDim }));
  }

  /** Weights are `softmax(-distance / temperature)`, the distance not squared. */
  encode(commands: Commands, io: Buffers<typeof em_soften>, dims: EmDims, temperature: number): void {
    if (!(temperature > 0)) {
      throw new RangeError(`Cannot soften codewords as the temperature must be above 0: it is ${temperature}`);
    }
    expectShapes("soften codewords", io, emSoftenShapes(dims) satisfies Shapes<typeof em_soften>);
    const { heads, tokens } = dims, blocks = io.residual.shape[1]!, parts = io.counts.shape[1]!;
    this.kernel.encode(commands, io, { tokens, blocks, parts, inverse: 1 / temperature }, [parts, heads]);
  }
}
