import { klRowsShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { kl_rows } from "../gpu/wgsl.gen.ts";

/** Picks the lanes per workgroup: one for sixteen tokens, capped by the device. Pure. */
export function chooseKlRowsLanes(vocab: number, maxLanes: number): number {
  return Math.min(1024, Math.max(32, 2 ** Math.ceil(Math.log2(vocab / 16))), maxLanes);
}

/** The divergence of each row of logits from another's, in nats. Borrows every tensor. */
export class KlRows {
  private constructor(readonly kernel: Kernel<typeof kl_rows>) {}

  /** Made for rows of `vocab` logits, and right for any. */
  static async create(gpu: Gpu, vocab: number, options: { lanes?: number } = {}): Promise<KlRows> {
    const { lanes = chooseKlRowsLanes(vocab, gpu.limits.maxComputeInvocationsPerWorkgroup) } = options;
    return new KlRows(await Kernel.create(gpu, kl_rows, { WG: lanes }));
  }

  /** Takes logits `p` and `q f32 [T][V]`, p the exact ones; `out f32 [T]` gets KL(p || q). */
  encode(commands: Commands, io: Buffers<typeof kl_rows>): void {
    const [tokens, vocab] = io.p.shape as readonly [number, number];
    expectShapes("compare rows", io, klRowsShapes({ tokens, vocab }) satisfies Shapes<typeof kl_rows>);
    this.kernel.encode(commands, io, { vocab }, [tokens]);
  }
}
