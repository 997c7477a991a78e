import { attnCodesValuesShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel } from "../gpu/kernel.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { attn_codes_values } from "../gpu/wgsl.gen.ts";
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

/** Picks the layout of the values' table. Pure. */
export function chooseAttnCodesValues(dims: CodesDims, device: CodesDevice): TableLayout {
  return chooseTableLayout(dims, device, device.subgroups ? 10 : 12, 4);
}

/** Which scored tokens' values are added up, and where the states go. */
export interface AttnCodesValuesParams {
  /** The first, a multiple of 32. */
  readonly first?: number;
  readonly tokens: number;
  /** Partial state of the first split. */
  readonly state?: number;
}

/** Partial attention states of scored tokens by decoding their values. Borrows every tensor. */
export class AttnCodesValues {
  private constructor(
    readonly kernel: Kernel<typeof attn_codes_values>,
    readonly dims: CodesDims,
    readonly variant: TableLayout,
  ) {}

  static async create(
    gpu: Gpu,
    dims: CodesDims,
    options: { variant?: TableLayout } = {},
  ): Promise<AttnCodesValues> {
    const { variant = chooseAttnCodesValues(dims, gpu) } = options;
    const constants = { ...codeConstants(dims.codec), ...layoutConstants(dims, variant) };
    return new AttnCodesValues(await Kernel.create(gpu, attn_codes_values, constants), dims, variant);
  }

  /** Partial states that `tokens` are split into. */
  states(tokens: number): number {
    const { heads, lanes, tokenLanes, workgroups } = this.variant;
    return splitsOf(workgroups, headChunks(this.dims, heads), tokens / 8 / (lanes / tokenLanes));
  }

  /** Writes the partial states `state` and on, and returns how many. `more` are further codes, where the codec has tiers. */
  encode(
    commands: Commands,
    io: Omit<Buffers<typeof attn_codes_values>, "more"> & { readonly more?: Tensor },
    params: AttnCodesValuesParams,
  ): number {
    const { dims, variant: { heads } } = this, { first = 0, tokens, state = 0 } = params;
    const codeBlocks = io.codes.shape[0]!, capacity = io.scores.shape[2]!;
    const states = io.partialO.shape[0]!, all = { ...dims, codeBlocks, heads, capacity, states };
    expectShapes("weigh values", { ...io }, attnCodesValuesShapes(all));
    expectMore(dims.codec, dims.kvHeads, codeBlocks, io.more);
    expectTokens("weigh", { first, tokens, codeBlocks, capacity });
    const splits = this.states(tokens);
    if (state + splits > states) {
      throw new RangeError(
        `Cannot write partial states ${state} to ${state + splits - 1} as there is room for ${states}`,
      );
    }
    const buffers = { ...io, more: io.more ?? io.codes }, numbers = { first, tokens, capacity, state };
    this.kernel.encode(commands, buffers, numbers, [splits, headChunks(dims, heads)]);
    return splits;
  }
}
