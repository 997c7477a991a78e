import { attnCodesMassShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { attn_codes_mass } from "../gpu/wgsl.gen.ts";
import {
  chooseHeads,
  type ChunkHeads,
  codeConstants,
  type CodesDevice,
  type CodesDims,
  expectTokens,
  headChunks,
  splitsOf,
} from "./packed_codes.ts";

/** Tokens that are weighed at a time, and worth a workgroup. */
const TILE = 256;

/** How query heads and tokens are laid over workgroups. */
export interface AttnCodesMassVariant {
  /** Query heads of a workgroup. */
  readonly heads: ChunkHeads;
  /** Workgroups to aim at. */
  readonly workgroups: number;
}

/** Lanes: a column for each lookup and query head, and a power of two. */
export function attnCodesMassLanes({ codec }: Pick<CodesDims, "codec">, { heads }: AttnCodesMassVariant): number {
  return Math.max(32, 2 ** Math.ceil(Math.log2(2 * codec.stages.length * heads)));
}

/** Workgroup memory in bytes: the mass, a tile of weights, and what reduces them. */
export function attnCodesMassBytes(
  dims: Pick<CodesDims, "codec">,
  variant: AttnCodesMassVariant,
  subgroups: boolean,
): number {
  const { heads } = variant, columns = 2 * dims.codec.stages.length * heads;
  return 256 * columns + 4 * TILE * heads + (subgroups ? 4 : 16) * attnCodesMassLanes(dims, variant);
}

/** Picks the most query heads that fit the device; undefined where values, or a tier's, cannot be summed as mass. Pure. */
export function chooseAttnCodesMass(
  dims: CodesDims,
  { limits, subgroups }: CodesDevice,
): AttnCodesMassVariant | undefined {
  const { stages, base } = dims.codec;
  if (base !== undefined || stages.some(({ kind }) => kind !== "pair")) return undefined;
  for (let heads = chooseHeads(dims); heads >= 1; heads /= 2) {
    const variant = { heads: heads as ChunkHeads, workgroups: 1024 };
    const fits = attnCodesMassLanes(dims, variant) <= limits.maxComputeInvocationsPerWorkgroup &&
      attnCodesMassBytes(dims, variant, subgroups) <= limits.maxComputeWorkgroupStorageSize;
    if (fits) return variant;
  }
  return undefined;
}

/** The softmax weight that falls on each word of a value codec of pair stages. Borrows every tensor. */
export class AttnCodesMass {
  private constructor(
    readonly kernel: Kernel<typeof attn_codes_mass>,
    readonly dims: CodesDims,
    readonly variant: AttnCodesMassVariant,
  ) {}

  static async create(
    gpu: Gpu,
    dims: CodesDims,
    variant: AttnCodesMassVariant,
  ): Promise<AttnCodesMass> {
    const { BITS, STAGES } = codeConstants(dims.codec), { heads } = variant;
    const kernel = await Kernel.create(gpu, attn_codes_mass, {
      HEADS_PART: `heads_${heads}`,
      WG: attnCodesMassLanes(dims, variant),
      CHUNKS: headChunks(dims, heads) / dims.kvHeads,
      LOOKUPS: 2 * STAGES,
      BITS,
    });
    return new AttnCodesMass(kernel, dims, variant);
  }

  /** Splits of `tokens`. */
  splits(tokens: number): number {
    return splitsOf(this.variant.workgroups, headChunks(this.dims, this.variant.heads), tokens / TILE);
  }

  encode(
    commands: Commands,
    io: Buffers<typeof attn_codes_mass>,
    { first = 0, tokens }: { first?: number; tokens: number },
  ): void {
    const { dims, variant: { heads } } = this, codeBlocks = io.codes.shape[0]!;
    const capacity = io.scores.shape[2]!, splits = io.mass.shape[0]!;
    const all = { ...dims, codeBlocks, heads, capacity, splits };
    expectShapes("weigh words", io, attnCodesMassShapes(all) satisfies Shapes<typeof attn_codes_mass>);
    expectTokens("weigh", { first, tokens, codeBlocks, capacity });
    this.kernel.encode(commands, io, { first, tokens, capacity }, [this.splits(tokens), headChunks(dims, heads)]);
  }
}
