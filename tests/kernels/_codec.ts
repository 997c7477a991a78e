/** Sample data for the codec's kernels: residuals of every kind, and words in half precision. */
import { type Stage, stageRows } from "../../src/core/codec.ts";
import { fromF16, toF16 } from "../../src/core/f16.ts";
import { BLOCK, blocks } from "../../src/core/pack.ts";
import { Rng } from "../../src/core/rng.ts";
import type { EmDims } from "../../src/core/shapes.ts";
import { normals } from "../_assert.ts";

/** Kinds of data; all but the first are hostile. */
export const KINDS = ["normal", "zeros", "constant", "duplicates"] as const;

/** Residuals `[heads][blocks][D][32]`; those past the last token are NaN, for nothing may read them. */
export function residuals(
  { headDim, heads, tokens }: Omit<EmDims, "stage">,
  kind: (typeof KINDS)[number],
  seed: number,
) {
  const rng = new Rng(seed), out = new Float32Array(heads * blocks(tokens) * headDim * BLOCK).fill(NaN);
  const vectors = normals(rng, heads * tokens * headDim, 0.1);
  for (let i = 0; i < vectors.length; i++) {
    const c = i % headDim, t = Math.floor(i / headDim) % tokens, head = Math.floor(i / headDim / tokens);
    const value = { normal: vectors[i]!, zeros: 0, constant: 0.25, duplicates: vectors[c]! }[kind];
    out[((head * blocks(tokens) + (t >> 5)) * headDim + c) * BLOCK + (t & 31)] = value;
  }
  return out;
}

/** Numbers in half precision: their bits and their values. */
export function halves(count: number, scale: number, seed: number): { bits: Uint16Array; values: Float64Array } {
  const rng = new Rng(seed), bits = Uint16Array.from({ length: count }, () => toF16(rng.normal() * scale));
  return { bits, values: Float64Array.from(bits, fromF16) };
}

/** Words `[heads][rows][D]` of a stage; the last of `repeat` rows equal the first. */
export function wordsOf(headDim: number, heads: number, stage: Stage, seed: number, repeat = 0) {
  const rows = stageRows(stage), { bits, values } = halves(heads * rows * headDim, 0.08, seed);
  for (let row = rows - repeat; row < rows; row++) {
    bits.copyWithin(row * headDim, 0, headDim);
    values.copyWithin(row * headDim, 0, headDim);
  }
  return { bits, values };
}

/** Half-precision bits as the words that a GPU reads. */
export function asWords(bits: Uint16Array): Uint32Array {
  return new Uint32Array(bits.buffer, bits.byteOffset, bits.length / 2);
}
