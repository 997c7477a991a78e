import { baseOf, type CodecShape, fields, gainUnit, tableRows } from "../core/codec.ts";
import { BLOCK } from "../core/pack.ts";
import { codeBeamShapes, missedShape } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel } from "../gpu/kernel.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { code_beam } from "../gpu/wgsl.gen.ts";
import { expectHeadDim, stageConstants } from "./stage.ts";

/** Ways that a search may keep: more gain little, and take memory that a workgroup may lack. */
export const MAX_BEAM = 8;

/**
 * Codes residuals by a search that keeps several ways; of a codec with tiers, all stages with the gains of the further ones,
 * or the first stages alone. Borrows every tensor.
 */
export class CodeBeam {
  private constructor(
    readonly kernel: Kernel<typeof code_beam>,
    readonly codec: CodecShape,
    readonly beam: number,
    readonly stages: number,
  ) {}

  /**
   * @param beam ways kept, from 1 (greedy) to {@linkcode MAX_BEAM}
   * @param stages stages in use, the first ones
   */
  static async create(
    gpu: Gpu,
    codec: CodecShape,
    beam: number,
    stages: number = codec.stages.length,
  ): Promise<CodeBeam> {
    expectHeadDim(codec.headDim);
    for (const stage of codec.stages) stageConstants(codec.headDim, stage);
    const FIELDS = fields({ ...codec, stages: codec.stages.slice(0, stages) }).length;
    const FIRST = Math.min(FIELDS, fields(baseOf(codec)).length), UNIT = gainUnit(codec);
    const SPAN = fields(codec).filter(({ stage }) => stage === codec.base).length;
    const bytes = beamBytes(codec.headDim, FIELDS), room = gpu.limits.maxComputeWorkgroupStorageSize;
    if (!(Number.isInteger(beam) && beam >= 1 && beam <= MAX_BEAM && bytes <= room)) {
      throw new RangeError(
        `Cannot search with a beam of ${beam} as it must be from 1 to ${MAX_BEAM} and need at most ${room} bytes of ` +
          `workgroup memory: it needs ${bytes}`,
      );
    }
    return new CodeBeam(
      await Kernel.create(gpu, code_beam, {
        ...{ HEAD_DIM: codec.headDim, BEAM: beam, WAYS: waysOf(beam), FIELDS },
        ...FIRST < FIELDS ? { FIRST, SPAN, UNIT } : { FIRST },
        WAYS_PART: gpu.lanesTell ? "ways_told" : "ways_shared",
      }),
      codec,
      beam,
      stages,
    );
  }

  /**
   * Codes the first `tokens` residuals. What codes miss is left in the residuals. With gains, only the tokens `missed u32
   * [K][blocks]` are sure to be coded.
   */
  encode(
    commands: Commands,
    io: Omit<Buffers<typeof code_beam>, "missed"> & { readonly missed?: Tensor },
    tokens: number,
  ): void {
    const { codec, stages } = this, [heads = 0, capacity = 0] = io.residual.shape, dims = { codec, stages, heads };
    const shapes = codeBeamShapes({ ...dims, capacity: capacity * BLOCK }), hasGains = stages > (codec.base ?? stages);
    expectShapes("search codes", { ...io }, shapes);
    const missed = missedShape(heads, capacity * BLOCK), given = io.missed?.shape;
    if (hasGains && `${given}` !== `${missed}`) {
      throw new TypeError(`Cannot search codes as 'missed' must have shape [${missed}]: it has [${given ?? ""}]`);
    }
    if (tokens > capacity * BLOCK) {
      throw new RangeError(`Cannot search codes of ${tokens} tokens as there are ${capacity} blocks of residuals`);
    }
    const sizes = { tokens, capacity, rows: tableRows(codec), gram: io.gram.shape[1]! };
    this.kernel.encode(commands, { ...io, missed: io.missed ?? io.fields }, sizes, [
      Math.ceil(tokens * waysOf(this.beam) / 16),
      heads,
    ]);
  }
}

/** Ways that the kernel has room for: those kept, and some without use. */
function waysOf(beam: number): number {
  return beam > 4 ? 8 : 4;
}

/** Workgroup memory of the search of `count` fields in bytes: what 16 ways have left, offsets, lists, the trace. */
function beamBytes(headDim: number, count: number): number {
  return 72 * headDim + 64 * 64 + 2 * 1024 + 32 * count + 272;
}
