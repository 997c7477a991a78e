import { attnCodesWordsShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { attn_codes_words } from "../gpu/wgsl.gen.ts";
import { type ChunkHeads, codeConstants, type CodesDims, headChunks } from "./packed_codes.ts";

/** Partial attention states from the mass of words. Borrows every tensor. */
export class AttnCodesWords {
  private constructor(
    readonly kernel: Kernel<typeof attn_codes_words>,
    readonly dims: CodesDims,
    readonly heads: ChunkHeads,
  ) {}

  /** `heads` query heads lie side by side in the mass. */
  static async create(gpu: Gpu, dims: CodesDims, heads: ChunkHeads): Promise<AttnCodesWords> {
    const { HEAD_DIM, STAGES } = codeConstants(dims.codec), GROUP = dims.qHeads / dims.kvHeads;
    const kernel = await Kernel.create(gpu, attn_codes_words, {
      ...{ HEADS_PART: `heads_${heads}`, HEAD_DIM, GROUP, CHUNKS: Math.ceil(GROUP / heads), LOOKUPS: 2 * STAGES },
      TOKEN_LANES: 2 ** Math.ceil(Math.log2(HEAD_DIM / 8)),
    });
    return new AttnCodesWords(kernel, dims, heads);
  }

  /** Partial states that one call writes. */
  get states(): number {
    return 2 * this.dims.codec.stages.length;
  }

  /** Folds the first `splits` of the mass, writes the partial states `state` and on, and returns how many. */
  encode(
    commands: Commands,
    io: Buffers<typeof attn_codes_words>,
    { splits, state = 0 }: { splits: number; state?: number },
  ): number {
    const { dims, heads } = this, room = io.mass.shape[0]!, states = io.partialO.shape[0]!;
    const all = { ...dims, heads, splits: room, states };
    expectShapes("add up words", io, attnCodesWordsShapes(all) satisfies Shapes<typeof attn_codes_words>);
    if (splits > room || state + this.states > states) {
      throw new RangeError(
        `Cannot add up ${splits} splits to partial states ${state} to ${
          state + this.states - 1
        } as there are ${room}, ` +
          `and room for ${states} states`,
      );
    }
    this.kernel.encode(commands, io, { splits, state }, [this.states, headChunks(dims, heads)]);
    return this.states;
  }
}
