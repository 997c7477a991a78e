import { ropeTableRows } from "../core/rope_table.ts";
import { attnCodesScoresShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel } from "../gpu/kernel.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { attn_codes_scores } from "../gpu/wgsl.gen.ts";
import {
  chooseTableLayout,
  codeConstants,
  type CodesDevice,
  type CodesDims,
  expectMore,
  expectTokens,
  headChunks,
  layoutConstants,
  splitsOf,
  type TableLayout,
} from "./packed_codes.ts";

/** How the keys' table is cut and laid over lanes. */
export interface AttnCodesScoresVariant extends TableLayout {
  /** Looks up a `q_table` of `words_f32` instead of words, by 1 head: the paper's commuted form. */
  readonly isCommuted: boolean;
}

/** Picks the variant: words decoded once for all query heads, summed in half precision where the device has it. Pure. */
export function chooseAttnCodesScores(dims: CodesDims, device: CodesDevice): AttnCodesScoresVariant {
  const layout = chooseTableLayout(dims, device, device.subgroups ? 4 : 32, 1);
  return { ...layout, isCommuted: false };
}

/** Tokens of the stream that are scored. */
export interface AttnCodesScoresParams {
  /** The first, a multiple of 32. */
  readonly first?: number;
  readonly tokens: number;
  /** Position of the stream's token 0. */
  readonly base?: number;
}

/** Scores queries against keys that are packed codes. Borrows every tensor. */
export class AttnCodesScores {
  private constructor(
    readonly kernel: Kernel<typeof attn_codes_scores>,
    readonly dims: CodesDims,
    readonly variant: AttnCodesScoresVariant,
  ) {}

  static async create(
    gpu: Gpu,
    dims: CodesDims,
    { variant = chooseAttnCodesScores(dims, gpu) }: { variant?: AttnCodesScoresVariant } = {},
  ): Promise<AttnCodesScores> {
    const kernel = await Kernel.create(gpu, attn_codes_scores, {
      ...codeConstants(dims.codec),
      ...layoutConstants(dims, variant),
      COMMUTED: variant.isCommuted,
    });
    return new AttnCodesScores(kernel, dims, variant);
  }

  /** `more` are further codes, where the codec has tiers. */
  encode(
    commands: Commands,
    io: Omit<Buffers<typeof attn_codes_scores>, "more"> & { readonly more?: Tensor },
    { first = 0, tokens, base = 0 }: AttnCodesScoresParams,
  ): void {
    const { dims, variant: { heads, lanes, tokenLanes, workgroups, isCommuted } } = this, { codec, kvHeads } = dims;
    const codeBlocks = io.codes.shape[0]!, capacity = io.scores.shape[2]!, tableRows = io.ropeTable.shape[0]!;
    const rows = headChunks(dims, heads), all = { ...dims, codeBlocks, heads, capacity, tableRows, isCommuted };
    expectShapes("score codes", { ...io }, attnCodesScoresShapes(all));
    expectTokens("score", { first, tokens, codeBlocks, capacity });
    if (ropeTableRows(base + first + tokens) > tableRows) {
      throw new RangeError(`Cannot rotate to position ${base + first + tokens - 1} as the rope table ends before it`);
    }
    expectMore(codec, kvHeads, codeBlocks, io.more);
    if (tokens === 0) return;
    const splits = splitsOf(workgroups, rows, tokens / 8 / (lanes / tokenLanes));
    const buffers = { ...io, more: io.more ?? io.codes };
    this.kernel.encode(commands, buffers, { base, first, tokens, capacity }, [splits, rows]);
  }
}
