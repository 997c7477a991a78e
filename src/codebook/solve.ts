/**
 * The M step: the words of a stage that fit their tokens best, in f64.
 *
 * Words and sums are `[rows][D]` with component 2d the real part of pair d and 2d + 1 its imaginary part, so that a row
 * is P complex numbers.
 *
 * @module
 */
import { PAIR_WORDS as W, type Stage, stageRows, SUB_WORDS } from "../core/codec.ts";

/** Ridge of the normal equations over the mean count of a word: words that are used too seldom stay bounded. */
export const RIDGE = 1e-4;

/** What an M step starts from: counts of codes and sums of residuals by word, as `em_accumulate` lays them out. */
export interface Moments {
  /** Pair stage `[64 a][64 b]`, sub stage `[groups][256]`. */
  readonly counts: Float64Array;
  /** `[rows][D]` */
  readonly sums: Float64Array;
  readonly tokens: number;
}

/**
 * The minimum of `sum |x - w|^2` plus the ridge times the squared lengths of the stage's free words, all assignments
 * fixed. A tied stage (paper, eq. 28 to 33) is a Hermitian system of 64 complex unknowns a pair, its free words u; an
 * untied one a real system of 128. A sub stage has means; a word of no token stays what it was in `old`.
 */
export function solveStage(stage: Stage, moments: Moments, headDim: number, old: Float64Array): Float64Array {
  const ridge = ridgeOf(stage, moments.tokens);
  if (stage.kind === "sub") return means(stage.pairs, moments, headDim, ridge, old);
  return stage.tied ? solveTied(moments, headDim, ridge) : solveUntied(moments, headDim, ridge);
}

/** The ridge of an M step over `tokens` tokens. */
export function ridgeOf(stage: Stage, tokens: number): number {
  return RIDGE * Math.max(1, tokens) / stageRows(stage);
}

function means(
  pairs: number,
  { counts, sums }: Moments,
  headDim: number,
  ridge: number,
  old: Float64Array,
): Float64Array {
  const words = new Float64Array(sums.length);
  for (let i = 0; i < words.length; i++) {
    const row = Math.floor(i / headDim), group = Math.floor(i % headDim / 2 / pairs);
    const count = counts[group * SUB_WORDS + row]!;
    words[i] = count > 0 ? sums[i]! / (count + ridge) : old[i]!;
  }
  return words;
}

/** Row and column sums of the counts. */
function marginals(counts: Float64Array): { rows: Float64Array; columns: Float64Array } {
  const rows = new Float64Array(W), columns = new Float64Array(W);
  for (let a = 0; a < W; a++) {
    for (let b = 0; b < W; b++) {
      rows[a]! += counts[a * W + b]!;
      columns[b]! += counts[a * W + b]!;
    }
  }
  return { rows, columns };
}

/** `(diag(r + c + ridge) + i (n - n')) Z = S_row - i S_col`, then `v = i Z` beside `u = Z`. */
function solveTied({ counts, sums }: Moments, headDim: number, ridge: number): Float64Array {
  const { rows, columns } = marginals(counts), re = new Float64Array(W * W), im = new Float64Array(W * W);
  for (let a = 0; a < W; a++) {
    for (let b = 0; b < a; b++) im[a * W + b] = counts[a * W + b]! - counts[b * W + a]!;
    re[a * W + a] = rows[a]! + columns[a]! + ridge;
  }
  const words = new Float64Array(2 * W * headDim), half = W * headDim;
  for (let i = 0; i < half; i += 2) { // -i (p + iq) = q - ip
    words[i] = sums[i]! + sums[half + i + 1]!;
    words[i + 1] = sums[i + 1]! - sums[half + i]!;
  }
  factor(re, im);
  substitute(re, im, words, headDim);
  for (let i = 0; i < half; i += 2) {
    words[half + i] = -words[i + 1]!;
    words[half + i + 1] = words[i]!;
  }
  return words;
}

/** `[[diag(r), n], [n', diag(c)]] + ridge`, with v eliminated. */
function solveUntied({ counts, sums }: Moments, headDim: number, ridge: number): Float64Array {
  const { rows, columns } = marginals(counts), half = W * headDim;
  const words = sums.slice(), matrix = new Float64Array(W * W), inverse = columns.map((c) => 1 / (c + ridge));
  const scaled = counts.map((n, i) => n * Math.sqrt(inverse[i % W]!));
  for (let a = 0; a < W; a++) {
    for (let b = 0; b <= a; b++) {
      let sum = 0;
      for (let k = 0; k < W; k++) sum += scaled[a * W + k]! * scaled[b * W + k]!;
      matrix[a * W + b] = -sum;
    }
    matrix[a * W + a]! += rows[a]! + ridge;
    for (let k = 0; k < W; k++) {
      addRow(words, a * headDim, half + k * headDim, headDim, -counts[a * W + k]! * inverse[k]!);
    }
  }
  factor(matrix);
  substitute(matrix, undefined, words, headDim);
  for (let b = 0; b < W; b++) {
    for (let a = 0; a < W; a++) addRow(words, half + b * headDim, a * headDim, headDim, -counts[a * W + b]!);
    for (let i = half + b * headDim; i < half + (b + 1) * headDim; i++) words[i]! *= inverse[b]!;
  }
  return words;
}

/** `x[to..] += factor * x[from..]`, `count` numbers. */
function addRow(x: Float64Array, to: number, from: number, count: number, factor: number): void {
  if (factor === 0) return;
  for (let i = 0; i < count; i++) x[to + i]! += factor * x[from + i]!;
}

/** The same for complex numbers and a complex factor. */
function addComplexRow(x: Float64Array, to: number, from: number, count: number, re: number, im: number): void {
  for (let i = 0; i < count; i += 2) {
    const p = x[from + i]!, q = x[from + i + 1]!;
    x[to + i]! += re * p - im * q;
    x[to + i + 1]! += re * q + im * p;
  }
}

/** Cholesky factor of a Hermitian matrix of 64 rows, in place in its lower triangle. */
function factor(re: Float64Array, im?: Float64Array): void {
  for (let i = 0; i < W; i++) {
    for (let j = 0; j <= i; j++) {
      let p = re[i * W + j]!, q = im ? im[i * W + j]! : 0;
      for (let k = 0; k < j; k++) { // minus L_ik conj(L_jk)
        const a = re[i * W + k]!, c = re[j * W + k]!;
        p -= a * c;
        if (im) {
          const b = im[i * W + k]!, d = im[j * W + k]!;
          p -= b * d;
          q -= b * c - a * d;
        }
      }
      const pivot = i === j ? 0 : re[j * W + j]!;
      re[i * W + j] = i === j ? Math.sqrt(p) : p / pivot;
      if (im) im[i * W + j] = i === j ? 0 : q / pivot;
    }
  }
}

/** Solves with a factor for the first 64 rows of `x`, in place. */
function substitute(re: Float64Array, im: Float64Array | undefined, x: Float64Array, width: number): void {
  const step = (i: number, k: number, at: number, sign: number): void => {
    if (im) addComplexRow(x, i * width, k * width, width, -re[at]!, -sign * im[at]!);
    else addRow(x, i * width, k * width, width, -re[at]!);
  };
  const divide = (i: number): void => {
    const inverse = 1 / re[i * W + i]!;
    for (let c = i * width; c < (i + 1) * width; c++) x[c]! *= inverse;
  };
  for (let i = 0; i < W; i++) {
    for (let k = 0; k < i; k++) step(i, k, i * W + k, 1);
    divide(i);
  }
  for (let i = W - 1; i >= 0; i--) {
    for (let k = i + 1; k < W; k++) step(i, k, k * W + i, -1);
    divide(i);
  }
}
