/** What a reference does after each operation: nothing, or rounding to f32, which makes it the naive f32 version. */
export type Round = (x: number) => number;

/** No rounding: the reference itself. */
export const exact: Round = (x) => x;

/**
 * The exponential as shaders have it, 2 to the power of x·log2(e): a naive f32 version rounds the product, too, which
 * for large `x` is most of its error (WGSL allows 3 + 2|x| units in the last place).
 */
export function expOf(x: number, round: Round): number {
  return round === exact ? Math.exp(x) : round(2 ** round(x * Math.LOG2E));
}
