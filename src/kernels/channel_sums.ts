import { channelSumsShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { channel_sums } from "../gpu/wgsl.gen.ts";

const LANES = 64;

/** Picks the rows a chunk sums: few, for accuracy, but no more than 512 chunks, as the host adds those. Pure. */
export function chooseChannelChunk(rows: number): number {
  return Math.max(256, Math.ceil(rows / 512));
}

/** Sums magnitudes, values and squares of every channel, a chunk of rows at a time. Borrows both tensors. */
export class ChannelSums {
  private constructor(readonly kernel: Kernel<typeof channel_sums>) {}

  static async create(gpu: Gpu): Promise<ChannelSums> {
    return new ChannelSums(await Kernel.create(gpu, channel_sums, { WG: LANES }));
  }

  /** `out` has as many chunks of `chunk` rows as it takes. */
  encode(commands: Commands, io: Buffers<typeof channel_sums>, chunk: number): void {
    const [rows, features] = io.values.shape as [number, number], chunks = Math.ceil(rows / chunk);
    expectShapes("sum channels", io, channelSumsShapes(rows, features, chunks) satisfies Shapes<typeof channel_sums>);
    this.kernel.encode(commands, io, { rows, features, chunk }, [Math.ceil(features / LANES), chunks]);
  }
}
