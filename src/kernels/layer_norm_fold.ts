import { layerNormFoldShapes, type ValueWidths } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { layer_norm_fold } from "../gpu/wgsl.gen.ts";

/** Merges a layer norm's gain and offset into the linear layer behind it, or parts their gradients. Borrows. */
export class LayerNormFold {
  private constructor(
    readonly kernel: Kernel<typeof layer_norm_fold>,
    readonly features: number,
    readonly widths: ValueWidths,
    readonly backward: boolean,
  ) {}

  static async create(gpu: Gpu, features: number, widths: ValueWidths, backward = false): Promise<LayerNormFold> {
    const constants = { WG: backward ? 256 : 32, FEATURES: features, HIDDEN: widths.hidden, BACKWARD: backward };
    const kernel = await Kernel.create(gpu, layer_norm_fold, constants);
    return new LayerNormFold(kernel, features, widths, backward);
  }

  /** Backward, `slabs` says how the gradients lie. */
  encode(
    commands: Commands,
    io: Buffers<typeof layer_norm_fold>,
    layers: number,
    slabs?: { readonly count: number; readonly apart: number },
  ): void {
    const shapes = layerNormFoldShapes(layers, this.widths, slabs) satisfies Shapes<typeof layer_norm_fold>;
    expectShapes("fold a layer norm", io, shapes);
    const grid = slabs ? [Math.ceil(this.features / 16), slabs.count, layers] : [this.widths.hidden, 1, layers];
    this.kernel.encode(commands, io, { slab: slabs?.apart ?? 0 }, grid as [number, number, number]);
  }
}
