import { gumbelBitsShapes, type ValueBatch } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { gumbel_bits } from "../gpu/wgsl.gen.ts";

const LANES = 256;

/** What Gumbel noise depends on. */
export interface NoiseKey {
  readonly seed: number;
  readonly step: number;
}

/** Chooses every symbol's state and writes its bits, or takes their gradient back to the logits. Borrows. */
export class GumbelBits {
  private constructor(readonly kernel: Kernel<typeof gumbel_bits>) {}

  static async create(gpu: Gpu, backward = false): Promise<GumbelBits> {
    return new GumbelBits(await Kernel.create(gpu, gumbel_bits, { WG: LANES, BACKWARD: backward }));
  }

  /** Without `noise` the choice is the largest logit. */
  encode(
    commands: Commands,
    io: Buffers<typeof gumbel_bits>,
    dims: ValueBatch & { readonly symbols: number },
    noise?: NoiseKey,
  ): void {
    expectShapes("choose bits", io, gumbelBitsShapes(dims) satisfies Shapes<typeof gumbel_bits>);
    const symbols = dims.tokens * dims.symbols, count = dims.layers * symbols;
    const { seed, step } = noise ?? { seed: 0, step: 0 };
    this.kernel.encode(commands, io, { symbols, count, noise: noise ? 1 : 0, seed, step }, [Math.ceil(count / LANES)]);
  }
}
