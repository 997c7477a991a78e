import { adamwShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { adamw } from "../gpu/wgsl.gen.ts";

const LANES = 256;
/** Workgroups of the largest dispatch; a lane takes more than one quad where there are more. */
const MOST_GROUPS = 16384;

/** Settings of one step. */
export interface AdamWStep {
  /** Steps taken, this one included. */
  readonly step: number;
  readonly rate: number;
  readonly decay: number;
  readonly beta1: number;
  readonly beta2: number;
}

/** Takes a step of AdamW. Borrows every tensor. */
export class AdamW {
  private constructor(readonly kernel: Kernel<typeof adamw>) {}

  static async create(gpu: Gpu): Promise<AdamW> {
    return new AdamW(await Kernel.create(gpu, adamw, { WG: LANES }));
  }

  encode(commands: Commands, io: Buffers<typeof adamw>, { step, rate, decay, beta1, beta2 }: AdamWStep): void {
    const [count] = io.parameters.shape as [number], [slabs] = io.gradients.shape as [number], quads = count / 4;
    expectShapes("take a step", io, adamwShapes(count, slabs) satisfies Shapes<typeof adamw>);
    const correction1 = 1 - beta1 ** step, correction2 = 1 - beta2 ** step;
    const params = { quads, slabs, rate, decay, beta1, beta2, correction1, correction2 };
    this.kernel.encode(commands, io, params, [Math.min(MOST_GROUPS, Math.ceil(quads / LANES))]);
  }
}
