/**
 * RoPE as complex numbers: pair `d` of a head is `x[d] + i·x[d + P]`, and position `m` multiplies it by
 * `exp(i·m·theta_d)`.
 *
 * GPUs' own sine is good to a few radians only, and positions reach 131,072. So `m` is cut into a low and a high part,
 * `m = 256·high + low`, each with a small table made in f64; the rotation is the product of two entries.
 *
 * @module
 */

/** Positions of the low part. */
export const ROPE_LOW = 256;

/** Rows of the table for positions below `context`: the low part's, then the high part's. */
export function ropeTableRows(context: number): number {
  return ROPE_LOW + Math.ceil(context / ROPE_LOW);
}

/**
 * The table `f32 [rows][P][2]` of cosines and sines that `wgsl/parts/rope.wgsl` reads.
 *
 * @param frequencies `theta_d` in radians a position, `[P]`
 * @param context positions that it must serve
 */
export function ropeTable(frequencies: Float64Array, context: number): Float32Array {
  const pairs = frequencies.length, rows = ropeTableRows(context), table = new Float32Array(rows * pairs * 2);
  for (let row = 0; row < rows; row++) {
    const position = row < ROPE_LOW ? row : (row - ROPE_LOW) * ROPE_LOW;
    for (let d = 0; d < pairs; d++) {
      const angle = position * frequencies[d]!;
      table.set([Math.cos(angle), Math.sin(angle)], 2 * (row * pairs + d));
    }
  }
  return table;
}
