import { cacheRoundShapes } from "../core/shapes.ts";
import type { CacheRounding } from "../core/rounding.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { cache_round } from "../gpu/wgsl.gen.ts";

const WG = 64;

/** Rounds the keys or values of an exact cache as a published codec does. Borrows both tensors. */
export class CacheRound {
  private constructor(readonly kernel: Kernel<typeof cache_round>, readonly rounding: CacheRounding) {}

  /** Throws `RangeError` for a head dimension that the codec is not defined for. */
  static async create(gpu: Gpu, headDim: number, rounding: CacheRounding): Promise<CacheRound> {
    const { codec, hadamard = false } = rounding, turns = hadamard || codec === "lloyd";
    if (headDim % 32 !== 0 || (turns && (headDim & (headDim - 1)) !== 0)) {
      throw new RangeError(
        `Cannot round heads by ${codec} as their dimension must be ${turns ? "a power of two" : "a multiple of 32"}` +
          `${turns ? " of at least 32" : ""}: it is ${headDim}`,
      );
    }
    const constants = {
      ...{ HEAD_DIM: headDim, WG, HADAMARD: hadamard, LEVELS: rounding.levels, SEED: rounding.seed },
      CODEC: ["q8_0", "q4_0", "range", "range over tokens", "lloyd"].indexOf(codec),
    };
    return new CacheRound(await Kernel.create(gpu, cache_round, constants), rounding);
  }

  /** Takes and gives `u32 [K][T][D/2]`, an exact cache that holds no more than its tokens. */
  encode(commands: Commands, io: Buffers<typeof cache_round>): void {
    const [kvHeads, tokens, words] = io.source.shape as readonly [number, number, number];
    const shapes = cacheRoundShapes({ kvHeads, capacity: tokens, headDim: 2 * words });
    expectShapes("round a cache", io, shapes satisfies Shapes<typeof cache_round>);
    const items = this.rounding.codec === "range over tokens" ? Math.ceil(tokens / 32) * words : tokens;
    this.kernel.encode(commands, io, { tokens, capacity: tokens }, [Math.ceil(items / WG), kvHeads]);
  }
}
