import { fromF16, toF16 } from "../core/f16.ts";
import { BLOCK, blocks } from "../core/pack.ts";
import type { VectorDims } from "../core/shapes.ts";
import { exact, type Round } from "./round.ts";

/** Index of a component in residuals `[heads][blocks][D][32]`. */
export function residualAt(headDim: number, tokens: number, head: number, token: number, component: number): number {
  return ((head * blocks(tokens) + (token >> 5)) * headDim + component) * BLOCK + (token & 31);
}

/**
 * Twin of `wgsl/code_residual.wgsl` in f64, for all heads of rows `[T][K·D]`; `round = Math.fround` gives the naive f32
 * version. `undo` turns each pair back by an angle, from position and pair.
 */
export function codeResidualRef(
  rows: ArrayLike<number>,
  { kvHeads, headDim }: VectorDims,
  undo?: (token: number, pair: number) => number,
  round: Round = exact,
): { scales: Float64Array; residual: Float64Array } {
  const features = kvHeads * headDim, pairs = headDim / 2, tokens = rows.length / features;
  const scales = new Float64Array(tokens), residual = new Float64Array(kvHeads * blocks(tokens) * BLOCK * headDim);
  for (let t = 0; t < tokens; t++) {
    let square = 0;
    for (let i = 0; i < features; i++) square = round(square + round(rows[t * features + i]! ** 2));
    const scale = scales[t] = fromF16(toF16(Math.min(65504, round(Math.sqrt(square)))));
    const inverse = scale > 0 ? round(1 / scale) : 0;
    for (let i = 0; i < kvHeads * pairs; i++) {
      const head = Math.floor(i / pairs), d = i % pairs, at = t * features + head * headDim + d;
      const re = round(rows[at]! * inverse), im = round(rows[at + pairs]! * inverse);
      const angle = -(undo?.(t, d) ?? 0), cos = round(Math.cos(angle)), sin = round(Math.sin(angle));
      const to = residualAt(headDim, tokens, head, t, 2 * d);
      residual[to] = round(round(re * cos) - round(im * sin));
      residual[to + BLOCK] = round(round(re * sin) + round(im * cos));
    }
  }
  return { scales, residual };
}
