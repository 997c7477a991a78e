import { gumbelBitsDecodeShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { gumbel_bits_decode } from "../gpu/wgsl.gen.ts";

/** Turns packed bits and scales back into values. Borrows every tensor. */
export class GumbelBitsDecode {
  private constructor(
    readonly kernel: Kernel<typeof gumbel_bits_decode>,
    readonly features: number,
    readonly words: number,
  ) {}

  static async create(gpu: Gpu, features: number, words: number): Promise<GumbelBitsDecode> {
    const kernel = await Kernel.create(gpu, gumbel_bits_decode, { FEATURES: features, WORDS: words });
    return new GumbelBitsDecode(kernel, features, words);
  }

  encode(commands: Commands, io: Buffers<typeof gumbel_bits_decode>, tokens: number): void {
    const { features, words } = this;
    const shapes = gumbelBitsDecodeShapes({ tokens, words, features }) satisfies Shapes<typeof gumbel_bits_decode>;
    expectShapes("decode values", io, shapes);
    this.kernel.encode(commands, io, {}, [tokens]);
  }
}
