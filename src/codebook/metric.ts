/**
 * Metrics: the space in which an error's length is what the error does to the model.
 *
 * A metric is a symmetric matrix `H^1/2` a head. Vectors are coded after `x H^1/2`, so that words minimise `e'He`; what is
 * stored are words of the plain space, `z = H^-1/2 z'`, which decoders read and RoPE commutes with as ever. Matrices are in
 * the order of words: component 2d is pair d's real part, 2d + 1 its imaginary part.
 *
 * @module
 */
import type { CodecShape } from "../core/codec.ts";
import { fromF16Array, toF16Array } from "../core/f16.ts";

/** Eigenvalues of a metric below this share of the largest are raised to it: no direction is free. */
const FLOOR = 0.003;

/**
 * Pairs that a codec's metric may mix: those of its smallest group, for a group's words must stay within its columns on the
 * way back; all of a head's where every stage is of pairs.
 */
export function metricCell({ headDim, stages }: CodecShape): number {
  return Math.min(...stages.map((stage) => stage.kind === "sub" ? stage.pairs : headDim / 2));
}

/**
 * Throws `RangeError` unless a codec's words may be fitted in a metric, of the given roots if any: no stage may be tied, and
 * no root mix more than {@linkcode metricCell} pairs.
 */
export function expectMetric(codec: CodecShape, roots?: Uint16Array): void {
  if (codec.stages.some((stage) => stage.kind === "pair" && stage.tied)) {
    throw new RangeError("Cannot code in a metric as no stage may be tied: ties do not outlast the way back");
  }
  const { headDim: D } = codec, cell = 2 * metricCell(codec);
  roots?.forEach((x, i) => {
    const row = Math.floor(i / D) % D, column = i % D;
    if ((x & 0x7fff) === 0 || Math.floor(row / cell) === Math.floor(column / cell)) return;
    throw new RangeError(
      `Cannot code in a metric as it may not mix more than ${cell / 2} pairs: groups are of as many`,
    );
  });
}

/**
 * Roots of metrics `[K][D][D]`, as half-precision bits. Each is scaled to a mean eigenvalue of 1 before the root; a metric
 * of zeros becomes the plain one. What mixes more than `cell` pairs is left out.
 */
export function metricRoots(metrics: Float64Array, headDim: number, cell = headDim / 2): Uint16Array {
  const out = new Uint16Array(metrics.length), size = headDim ** 2;
  const cellOf = (channel: number): number => Math.floor(channel / (2 * cell));
  for (let at = 0; at < out.length; at += size) {
    const own = metrics.slice(at, at + size);
    for (let i = 0; i < size; i++) if (cellOf(Math.floor(i / headDim)) !== cellOf(i % headDim)) own[i] = 0;
    const { values, vectors } = eigen(own, headDim), largest = Math.max(...values);
    const raised = values.map((x) => largest > 0 ? Math.max(x, FLOOR * largest) : 1);
    const mean = raised.reduce((a, b) => a + b) / headDim, root = new Float64Array(size);
    for (let v = 0; v < headDim; v++) {
      const factor = Math.sqrt(raised[v]! / mean);
      for (let i = 0; i < headDim; i++) {
        const x = factor * vectors[v * headDim + i]!;
        for (let j = 0; j < headDim; j++) root[i * headDim + j]! += x * vectors[v * headDim + j]!;
      }
    }
    out.set(toF16Array(root), at);
  }
  return out;
}

/**
 * Eigenvalues, and eigenvectors as rows, of a symmetric matrix, which is overwritten: Jacobi's rotations until nothing is
 * left beside the diagonal.
 */
function eigen(matrix: Float64Array, n: number): { values: Float64Array; vectors: Float64Array } {
  const a = matrix, vectors = new Float64Array(n * n);
  for (let i = 0; i < n; i++) vectors[i * n + i] = 1;
  const norm = a.reduce((sum, x) => sum + x * x, 0);
  for (let sweep = 0; sweep < 30; sweep++) {
    let beside = 0;
    for (let i = 0; i < n; i++) for (let j = 0; j < i; j++) beside += a[i * n + j]! ** 2;
    if (beside <= 1e-24 * norm) break;
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) {
        const x = a[p * n + q]!;
        if (x === 0) continue;
        const ratio = (a[q * n + q]! - a[p * n + p]!) / (2 * x);
        const t = (ratio < 0 ? -1 : 1) / (Math.abs(ratio) + Math.sqrt(1 + ratio * ratio));
        const c = 1 / Math.sqrt(1 + t * t), s = t * c;
        for (let k = 0; k < n; k++) turn(a, k * n + p, k * n + q, c, s);
        for (let k = 0; k < n; k++) turn(a, p * n + k, q * n + k, c, s);
        for (let k = 0; k < n; k++) turn(vectors, p * n + k, q * n + k, c, s);
      }
    }
  }
  return { values: Float64Array.from({ length: n }, (_, i) => a[i * n + i]!), vectors };
}

function turn(x: Float64Array, i: number, j: number, c: number, s: number): void {
  const a = x[i]!, b = x[j]!;
  x[i] = c * a - s * b;
  x[j] = s * a + c * b;
}

/** Inverse of a positive definite matrix, by Gauss and Jordan. */
export function inverted(matrix: Float64Array, n: number): Float64Array {
  const a = matrix.slice();
  for (let k = 0; k < n; k++) {
    const pivot = 1 / a[k * n + k]!;
    a[k * n + k] = 1;
    for (let j = 0; j < n; j++) a[k * n + j]! *= pivot;
    for (let i = 0; i < n; i++) {
      if (i === k) continue;
      const factor = a[i * n + k]!;
      a[i * n + k] = 0;
      for (let j = 0; j < n; j++) a[i * n + j]! -= factor * a[k * n + j]!;
    }
  }
  return a;
}

/** Rows of D numbers times a symmetric matrix. */
export function timesMatrix(rows: ArrayLike<number>, matrix: Float64Array, n: number): Float64Array {
  const out = new Float64Array(rows.length);
  for (let row = 0; row < out.length; row += n) {
    for (let j = 0; j < n; j++) {
      const x = rows[row + j]!;
      if (x !== 0) { for (let i = 0; i < n; i++) out[row + i]! += x * matrix[j * n + i]!; }
    }
  }
  return out;
}

/** One head's metric in f64 of a metric `[K][D][D]` in half precision. */
export function headMetric(metric: Uint16Array, head: number, headDim: number): Float64Array {
  return Float64Array.from(fromF16Array(metric.subarray(head * headDim ** 2, (head + 1) * headDim ** 2)));
}

/**
 * Words `[K][rows][D]` as training in a metric `[K][D][D]` compares with, all half-precision bits. An encoder's are made by
 * `code_search`, whose sums are f32: one in thousands rounds to the neighbour.
 */
export function metricWords(words: Uint16Array, metric: Uint16Array, headDim: number): Uint16Array {
  const heads = metric.length / headDim ** 2, size = words.length / heads, out = new Uint16Array(words.length);
  for (let head = 0; head < heads; head++) {
    const rows = fromF16Array(words.subarray(head * size, (head + 1) * size));
    out.set(toF16Array(timesMatrix(rows, headMetric(metric, head, headDim), headDim)), head * size);
  }
  return out;
}

/** Distances between a query and the keys that metrics of keys are for: log-uniform, in tokens. */
export const DISTANCES: { readonly least: number; readonly most: number } = { least: 64, most: 2048 };

/**
 * `E[e^(i w distance)]` at the differences and sums of all pairs' frequencies, `[P][P]` complex numbers each: what turning
 * queries by their distance leaves of products of two of their components.
 */
export interface TurnMeans {
  readonly differences: Float64Array;
  readonly sums: Float64Array;
}

/** Means of turns over {@linkcode DISTANCES}, `frequencies` in radians a position. */
export function turnMeans(frequencies: ArrayLike<number>, { least, most } = DISTANCES): TurnMeans {
  const pairs = frequencies.length;
  let weight = 0;
  for (let n = least; n <= most; n++) weight += 1 / n;
  const mean = (w: number): [number, number] => {
    let re = 0, im = 0;
    for (let n = least; n <= most; n++) {
      re += Math.cos(w * n) / n;
      im += Math.sin(w * n) / n;
    }
    return [re / weight, im / weight];
  };
  const differences = new Float64Array(2 * pairs * pairs), sums = new Float64Array(2 * pairs * pairs);
  for (let j = 0; j < pairs; j++) {
    for (let k = 0; k < pairs; k++) {
      differences.set(mean(frequencies[j]! - frequencies[k]!), 2 * (j * pairs + k));
      sums.set(mean(frequencies[j]! + frequencies[k]!), 2 * (j * pairs + k));
    }
  }
  return { differences, sums };
}

/**
 * The metric of keys (field.md 2.4): `E[q q']` of queries turned by their distance, from `moments`, `E[q q']` of queries
 * before RoPE, both `[D][D]`. With S = E[q_j conj(q_k)] and B = E[q_j q_k], turning leaves S times the mean at the
 * frequencies' difference and B times that at their sum.
 */
export function queryMetric(moments: Float64Array, { differences, sums }: TurnMeans, headDim: number): Float64Array {
  const pairs = headDim / 2, out = new Float64Array(headDim ** 2);
  for (let j = 0; j < pairs; j++) {
    for (let k = 0; k < pairs; k++) {
      const at = 2 * (j * headDim + k), [ac, ad] = [moments[at]!, moments[at + 1]!];
      const [bc, bd] = [moments[at + headDim]!, moments[at + headDim + 1]!], i = 2 * (j * pairs + k);
      const [sRe, sIm] = product(ac + bd, bc - ad, differences[i]!, differences[i + 1]!);
      const [bRe, bIm] = product(ac - bd, ad + bc, sums[i]!, sums[i + 1]!);
      out[at] = (sRe + bRe) / 2;
      out[at + 1] = (bIm - sIm) / 2;
      out[at + headDim] = (bIm + sIm) / 2;
      out[at + headDim + 1] = (sRe - bRe) / 2;
    }
  }
  return out;
}

function product(a: number, b: number, c: number, d: number): [number, number] {
  return [a * c - b * d, a * d + b * c];
}

/**
 * Sums of `x x'` of each KV head's vectors, `[K][D][D]` in the order of words: `rows [T][stride]` have from number `offset`
 * on `K * group` vectors of D channels side by side, `group` of them a KV head.
 */
export function addMoments(
  sums: Float64Array,
  rows: Float32Array,
  { headDim, group, stride, offset = 0 }: { headDim: number; group: number; stride: number; offset?: number },
): void {
  const pairs = headDim / 2, heads = sums.length / headDim ** 2, x = new Float64Array(headDim);
  for (let row = offset; row < rows.length; row += stride) {
    for (let h = 0; h < heads * group; h++) {
      for (let d = 0; d < pairs; d++) {
        x[2 * d] = rows[row + h * headDim + d]!;
        x[2 * d + 1] = rows[row + h * headDim + pairs + d]!;
      }
      const to = Math.floor(h / group) * headDim ** 2;
      for (let i = 0; i < headDim; i++) {
        const xi = x[i]!, at = to + i * headDim;
        for (let j = 0; j < headDim; j++) sums[at + j]! += xi * x[j]!;
      }
    }
  }
}
