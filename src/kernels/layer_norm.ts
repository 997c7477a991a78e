import { layerNormShapes, type ValueBatch } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { layer_norm } from "../gpu/wgsl.gen.ts";

/** Which rows become the tokens of a layer, and what they weigh in the loss. */
export interface TokenChoice {
  /** The layer of the batch that is filled. */
  readonly layer: number;
  /** First row, where rows are taken in order. */
  readonly first?: number;
  /** What random rows depend on, where they are drawn. */
  readonly seed?: number;
  readonly step?: number;
  readonly weight?: number;
}

/** Picks a layer's tokens, takes out their scale and standardizes them. Borrows every tensor. */
export class LayerNorm {
  private constructor(readonly kernel: Kernel<typeof layer_norm>, readonly features: number) {}

  /** `draw`: tokens are random rows, with replacement; else rows in order. */
  static async create(
    gpu: Gpu,
    features: number,
    options: { draw?: boolean; lanes?: number } = {},
  ): Promise<LayerNorm> {
    const { draw = false, lanes = 32 } = options;
    return new LayerNorm(await Kernel.create(gpu, layer_norm, { WG: lanes, FEATURES: features, DRAW: draw }), features);
  }

  encode(commands: Commands, io: Buffers<typeof layer_norm>, batch: ValueBatch, choice: TokenChoice): void {
    const { features } = this, { tokens } = batch, rows = io.values.shape[0]!;
    const { layer, first = 0, seed = 0, step = 0, weight = 0 } = choice;
    const shapes = layerNormShapes({ ...batch, rows, features }) satisfies Shapes<typeof layer_norm>;
    expectShapes("normalize values", io, shapes);
    this.kernel.encode(commands, io, { rows, tokens, layer, first, seed, step, weight }, [tokens]);
  }
}
