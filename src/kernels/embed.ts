import { UNIT } from "../core/weight_layout.ts";
import type { WeightType } from "../core/model.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { expectShapes, Kernel } from "../gpu/kernel.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { embed } from "../gpu/wgsl.gen.ts";
import { expectWeights, type WeightMatrix, weightPart, weightStore } from "./weights.ts";

/** Units that a workgroup makes. */
const LANES = 64;
/** Workgroups along y, where z takes over: every device allows as many. */
const GRID_Y = 32768;

/** Looks tokens up in an embedding matrix. Borrows every tensor. */
export class Embed {
  private constructor(readonly kernel: Kernel<typeof embed>, readonly type: WeightType, readonly texels: boolean) {}

  /** For matrices of `type`, in buffers or in texels. */
  static async create(gpu: Gpu, type: WeightType, { texels = false } = {}): Promise<Embed> {
    const constants = { WEIGHT: weightPart(type), STORE: weightStore(texels) };
    return new Embed(await Kernel.create(gpu, embed, constants), type, texels);
  }

  /** Encodes `out f32 [T][cols]` for `ids u32 [T]`. Rows of ids that the matrix does not have are left alone. */
  encode(
    commands: Commands,
    weights: WeightMatrix,
    { ids, out }: { readonly ids: Tensor; readonly out: Tensor },
  ): void {
    const { cols } = weights, tokens = ids.shape[0]!, units = Math.ceil(cols / UNIT);
    const slices = expectWeights("embed tokens", weights, this.type, this.texels);
    if (weights.paired) throw new TypeError("Cannot embed tokens as their matrix is paired");
    expectShapes("embed tokens", { ids, out }, { ids: [tokens], out: [tokens, cols] });
    const y = Math.min(tokens, GRID_Y), grid = [Math.ceil(units / LANES), y, Math.ceil(tokens / y)] as const;
    for (const { row, rows, data, scales } of slices) {
      const params = { tokens, first: row, rows, units, quads: cols / 4 };
      this.kernel.encode(commands, { weights: data, scales, ids, out }, params, grid);
    }
  }
}
