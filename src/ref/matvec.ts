import { exact, type Round } from "./round.ts";

/** What a product is fused with, as numbers: see `wgsl/matvec.wgsl`. */
export interface MatvecRefForm {
  /** With it, x is RMS-normalized first. */
  readonly gain?: ArrayLike<number>;
  readonly eps?: number;
  /** What out held. */
  readonly residual?: ArrayLike<number>;
  readonly gated?: boolean;
}

/** Twin of `wgsl/matvec.wgsl` in f64; `weights` as numbers `[rows][x.length]`. */
export function matvecRef(
  weights: ArrayLike<number>,
  x: ArrayLike<number>,
  { gain, eps = 0, residual, gated = false }: MatvecRefForm = {},
  round: Round = exact,
): Float64Array {
  const cols = x.length, rows = weights.length / cols, y = new Float64Array(rows), v = Float64Array.from(x);
  if (gain) {
    let squares = 0;
    for (let c = 0; c < cols; c++) squares = round(squares + round(v[c]! * v[c]!));
    const norm = round(1 / round(Math.sqrt(round(round(squares / cols) + round(eps)))));
    for (let c = 0; c < cols; c++) v[c] = round(round(v[c]! * norm) * gain[c]!);
  }
  for (let r = 0; r < rows; r++) {
    let sum = 0;
    for (let c = 0; c < cols; c++) sum = round(sum + round(round(weights[r * cols + c]!) * v[c]!));
    y[r] = sum;
  }
  const out = gated ? y.subarray(0, rows / 2).map((g, r) => round(silu(g, round) * y[rows / 2 + r]!)) : y;
  return residual ? out.map((v, r) => round(v + residual[r]!)) : out;
}

function silu(x: number, round: Round): number {
  return round(x / round(1 + round(Math.exp(-x))));
}
