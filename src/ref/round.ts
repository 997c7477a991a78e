/** What a reference does after each operation: nothing, or rounding to f32, which makes it the naive f32 version. */
export type Round = (x: number) => number;

/** No rounding: the reference itself. */
export const exact: Round = (x) => x;
