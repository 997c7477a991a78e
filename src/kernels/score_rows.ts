import { scoreRowsShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel, type Shapes } from "../gpu/kernel.ts";
import { score_rows } from "../gpu/wgsl.gen.ts";

/** Picks the lanes per workgroup: one for sixteen tokens, capped by the device. Pure. */
export function chooseScoreRowsLanes(vocab: number, maxLanes: number): number {
  return Math.min(1024, Math.max(32, 2 ** Math.ceil(Math.log2(vocab / 16))), maxLanes);
}

/** One row's judgement: the likeliest token and its logit, log-sum-exp, and the target's negative log-likelihood. */
export interface RowScore {
  readonly top: number;
  readonly topLogit: number;
  readonly logSumExp: number;
  /** In nats. */
  readonly nll: number;
}

/** Judges rows of logits against the tokens that came. Borrows every tensor. */
export class ScoreRows {
  private constructor(readonly kernel: Kernel<typeof score_rows>) {}

  /** Made for rows of `vocab` logits, and right for any. */
  static async create(gpu: Gpu, vocab: number, options: { lanes?: number } = {}): Promise<ScoreRows> {
    const { lanes = chooseScoreRowsLanes(vocab, gpu.limits.maxComputeInvocationsPerWorkgroup) } = options;
    return new ScoreRows(await Kernel.create(gpu, score_rows, { WG: lanes }));
  }

  /** Takes `logits f32 [T][V]` and `targets u32 [T]`; {@linkcode rowScores} reads `scores u32 [T][4]`. */
  encode(commands: Commands, io: Buffers<typeof score_rows>): void {
    const [tokens, vocab] = io.logits.shape as readonly [number, number];
    expectShapes("score rows", io, scoreRowsShapes({ tokens, vocab }) satisfies Shapes<typeof score_rows>);
    this.kernel.encode(commands, io, { vocab }, [tokens]);
  }
}

/** Rows' scores from the bytes of `scores`. */
export function rowScores(bytes: ArrayBuffer): RowScore[] {
  const ids = new Uint32Array(bytes), numbers = new Float32Array(bytes);
  return Array.from({ length: ids.length / 4 }, (_, t) => ({
    top: ids[4 * t]!,
    topLogit: numbers[4 * t + 1]!,
    logSumExp: numbers[4 * t + 2]!,
    nll: numbers[4 * t + 3]!,
  }));
}
