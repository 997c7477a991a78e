import { emReduceShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { em_reduce } from "../gpu/wgsl.gen.ts";

/** Adds up the parts of sums. Borrows every tensor. */
export class EmReduce {
  private constructor(readonly kernel: Kernel<typeof em_reduce>) {}

  static async create(gpu: Gpu): Promise<EmReduce> {
    return new EmReduce(await Kernel.create(gpu, em_reduce));
  }

  /** Rows must be multiples of four numbers. */
  encode(commands: Commands, io: Buffers<typeof em_reduce>): void {
    const [heads = 0, parts = 0, width = 0] = io.parts.shape, quads = width / 4;
    expectShapes("add up parts", io, emReduceShapes({ heads, parts, width }) satisfies Shapes<typeof em_reduce>);
    if (width % 4 !== 0) {
      throw new RangeError(`Cannot add up parts as their width must be a multiple of 4: it is ${width}`);
    }
    this.kernel.encode(commands, io, { count: parts, quads }, [Math.ceil(quads / 64), heads]);
  }
}
