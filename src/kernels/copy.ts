import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel } from "../gpu/kernel.ts";
import { copy } from "../gpu/wgsl.gen.ts";

const LANES = 256;
/** Workgroups along x, where y takes over: every device allows as many. */
const GRID_X = 32768;

/** Copies a tensor of whole 16-byte words: what benches hold other kernels against. Borrows both tensors. */
export class Copy {
  private constructor(readonly kernel: Kernel<typeof copy>) {}

  static async create(gpu: Gpu): Promise<Copy> {
    return new Copy(await Kernel.create(gpu, copy, { WG: LANES }));
  }

  encode(commands: Commands, io: Buffers<typeof copy>): void {
    expectShapes("copy", io, { source: io.copied.shape, copied: io.source.shape });
    const count = io.source.byteLength / 16;
    if (!Number.isInteger(count)) {
      throw new RangeError(`Cannot copy as tensors must be whole words of 16 bytes: they have ${io.source.byteLength}`);
    }
    const groups = Math.ceil(count / (4 * LANES)), width = Math.min(groups, GRID_X);
    this.kernel.encode(commands, io, { count, width }, [width, Math.ceil(groups / width)]);
  }
}
