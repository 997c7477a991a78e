import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel } from "../gpu/kernel.ts";
import { elements } from "../gpu/tensor.ts";
import { gelu } from "../gpu/wgsl.gen.ts";

const LANES = 256;
/** Workgroups of the largest dispatch; a lane takes more than one quad where there are more. */
const MOST_GROUPS = 16384;

/** The exact GELU, or the product of a gradient with its derivative, in place. Borrows both tensors. */
export class Gelu {
  private constructor(readonly kernel: Kernel<typeof gelu>) {}

  static async create(gpu: Gpu, backward = false): Promise<Gelu> {
    return new Gelu(await Kernel.create(gpu, gelu, { WG: LANES, BACKWARD: backward }));
  }

  /** `x` and `y` have one shape, a multiple of 4 numbers. */
  encode(commands: Commands, io: Buffers<typeof gelu>): void {
    expectShapes("apply GELU", io, { y: io.x.shape });
    const quads = elements(io.x.shape) / 4;
    this.kernel.encode(commands, io, { quads }, [Math.min(MOST_GROUPS, Math.ceil(quads / LANES))]);
  }
}
