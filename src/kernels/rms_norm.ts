import { rmsNormShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { rms_norm } from "../gpu/wgsl.gen.ts";

/** Picks the lanes per workgroup: one per quad of channels, capped by the device. Pure. */
export function chooseRmsNormLanes(hidden: number, maxLanes: number): number {
  return Math.min(256, Math.max(32, 2 ** Math.ceil(Math.log2(hidden / 4))), maxLanes);
}

/** Scales tokens to a root mean square of 1, then by the gain. Borrows every tensor. */
export class RmsNorm {
  private constructor(readonly kernel: Kernel<typeof rms_norm>, readonly hidden: number) {}

  /** For tokens of `hidden` channels, a multiple of 4. */
  static async create(gpu: Gpu, hidden: number, options: { lanes?: number } = {}): Promise<RmsNorm> {
    if (!(hidden > 0) || hidden % 4 !== 0) {
      throw new RangeError(`Cannot normalize as channels must be a multiple of 4: there are ${hidden}`);
    }
    const { lanes = chooseRmsNormLanes(hidden, gpu.limits.maxComputeInvocationsPerWorkgroup) } = options;
    return new RmsNorm(await Kernel.create(gpu, rms_norm, { WG: lanes }), hidden);
  }

  /** Takes `x f32 [T][H]` and `gain f32 [H]`, gives `out f32 [T][H]`. */
  encode(commands: Commands, io: Buffers<typeof rms_norm>, eps: number): void {
    const { hidden } = this, tokens = io.x.shape[0]!;
    expectShapes("normalize", io, rmsNormShapes({ tokens, hidden }) satisfies Shapes<typeof rms_norm>);
    this.kernel.encode(commands, io, { quads: hidden / 4, eps }, [tokens]);
  }
}
