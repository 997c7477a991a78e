import { gatedMlpShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { gated_mlp } from "../gpu/wgsl.gen.ts";

const LANES = 256;
/** The widest grid that every device takes. */
const MOST_GROUPS = 65535;

/** The gated activation between two feed-forward products. Borrows both tensors. */
export class GatedMlp {
  private constructor(readonly kernel: Kernel<typeof gated_mlp>) {}

  static async create(gpu: Gpu): Promise<GatedMlp> {
    return new GatedMlp(await Kernel.create(gpu, gated_mlp, { WG: LANES }));
  }

  /** Takes `gateUp f32 [T][2F]`, gates first; `out f32 [T][F]` gets silu(gate) * up. F is a multiple of 4. */
  encode(commands: Commands, io: Buffers<typeof gated_mlp>): void {
    const [tokens, ffn] = io.out.shape as readonly [number, number];
    expectShapes("apply the gate", io, gatedMlpShapes({ tokens, ffn }) satisfies Shapes<typeof gated_mlp>);
    if (ffn % 4 !== 0) {
      throw new RangeError(`Cannot apply the gate as channels must be a multiple of 4: there are ${ffn}`);
    }
    const grid = [Math.ceil(ffn / 4 / LANES), Math.min(tokens, MOST_GROUPS)] as const;
    this.kernel.encode(commands, io, { tokens, quads: ffn / 4 }, grid);
  }
}
