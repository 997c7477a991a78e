import { exact, type Round } from "./round.ts";

/** Twin of `wgsl/score_rows.wgsl` in f64; `round = Math.fround` gives the naive f32 version. */
export function scoreRowsRef(
  logits: Float32Array,
  targets: ArrayLike<number>,
  round: Round = exact,
): { top: number[]; topLogit: number[]; logSumExp: number[]; nll: number[] } {
  const vocab = logits.length / targets.length,
    out = { top: [], topLogit: [], logSumExp: [], nll: [] } as ReturnType<
      typeof scoreRowsRef
    >;
  for (let t = 0; t < targets.length; t++) {
    const row = logits.subarray(t * vocab, (t + 1) * vocab);
    let top = 0, sum = 0;
    for (let i = 1; i < vocab; i++) if (row[i]! > row[top]!) top = i;
    for (const x of row) sum = round(sum + round(Math.exp(round(x - row[top]!))));
    const logSumExp = round(row[top]! + round(Math.log(sum)));
    out.top.push(top);
    out.topLogit.push(row[top]!);
    out.logSumExp.push(logSumExp);
    out.nll.push(round(logSumExp - row[targets[t]!]!));
  }
  return out;
}
