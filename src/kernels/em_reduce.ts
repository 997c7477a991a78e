import { type EmDims, emReduceShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { em_reduce } from "../gpu/wgsl.gen.ts";

/** Adds up the chunks of `em_accumulate`. Borrows every tensor. */
export class EmReduce {
  private constructor(readonly kernel: Kernel<typeof em_reduce>) {}

  static async create(gpu: Gpu): Promise<EmReduce> {
    return new EmReduce(await Kernel.create(gpu, em_reduce));
  }

  encode(commands: Commands, io: Buffers<typeof em_reduce>, dims: EmDims): void {
    expectShapes("add up chunks", io, emReduceShapes(dims) satisfies Shapes<typeof em_reduce>);
    const [heads, chunks, width] = io.sums.shape as [number, number, number], quads = width / 4;
    this.kernel.encode(commands, io, { chunks, quads }, [Math.ceil(quads / 64), heads]);
  }
}
