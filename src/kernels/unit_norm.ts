import { unitNormShapes, type ValueBatch } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { unit_norm } from "../gpu/wgsl.gen.ts";

/** Scales sums of codewords to their tokens and measures the error, or turns them into its gradient. Borrows. */
export class UnitNorm {
  private constructor(readonly kernel: Kernel<typeof unit_norm>, readonly features: number) {}

  static async create(gpu: Gpu, features: number, backward = false, lanes = 32): Promise<UnitNorm> {
    const constants = { WG: lanes, FEATURES: features, BACKWARD: backward };
    return new UnitNorm(await Kernel.create(gpu, unit_norm, constants), features);
  }

  encode(commands: Commands, io: Buffers<typeof unit_norm>, batch: ValueBatch): void {
    const { features } = this, { tokens } = batch, count = batch.layers * tokens;
    expectShapes("scale values", io, unitNormShapes({ ...batch, features }) satisfies Shapes<typeof unit_norm>);
    this.kernel.encode(commands, io, { tokens, count }, [Math.ceil(count / 2)]);
  }
}
