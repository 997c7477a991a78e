/**
 * Every axis and every tensor. Host checks, references, tests and benches read shapes here and nowhere else.
 *
 * Axes, outermost first: tokens T, query heads Q, key/value heads K, head dimension D, rotary pairs P (= D/2), stages
 * S, codewords W, splits I of the context, rows R (a query head of a token).
 *
 * @module
 */

type Shape = readonly number[];

/** Axes of {@linkcode attnMergeShapes}. */
export interface AttnMergeDims {
  readonly rows: number;
  readonly splits: number;
  readonly headDim: number;
}

/** Tensors of `attn_merge`. */
export function attnMergeShapes(
  { rows, splits, headDim }: AttnMergeDims,
): Record<"partialO" | "partialMd" | "out", Shape> {
  return { partialO: [splits, rows, headDim], partialMd: [splits, rows, 2], out: [rows, headDim] };
}
