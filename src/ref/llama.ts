import type { LlamaConfig } from "../core/model.ts";
import { exact, type Round } from "./round.ts";

/** Weights of one layer as numbers, matrices `[rows][cols]` in Hugging Face's order (half-split rotary pairs). */
export interface LayerTensors {
  readonly attnNorm: Float32Array;
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
  readonly o: Float32Array;
  readonly ffnNorm: Float32Array;
  readonly gate: Float32Array;
  readonly up: Float32Array;
  readonly down: Float32Array;
}

/** Weights of a whole model as numbers. `output` is absent where the embedding is tied. */
export interface LlamaTensors {
  readonly embed: Float32Array;
  readonly layers: readonly LayerTensors[];
  readonly norm: Float32Array;
  readonly output?: Float32Array;
}

/** `W x` for `W [rows][x.length]`. */
function matvec(w: Float32Array, x: Float64Array): Float64Array {
  const cols = x.length, out = new Float64Array(w.length / cols);
  for (let r = 0; r < out.length; r++) {
    let sum = 0;
    for (let c = 0; c < cols; c++) sum += w[r * cols + c]! * x[c]!;
    out[r] = sum;
  }
  return out;
}

function rmsNorm(x: Float64Array, gain: Float32Array, eps: number): Float64Array {
  const mean = x.reduce((sum, v) => sum + v * v, 0) / x.length, scale = 1 / Math.sqrt(mean + eps);
  return x.map((v, i) => v * scale * gain[i]!);
}

/** Rotates every head of `x` in place to `position`; `frequencies` are in radians a position, `[P]`. */
function rotate(x: Float64Array, headDim: number, frequencies: Float64Array, position: number): void {
  const pairs = headDim / 2;
  for (let head = 0; head < x.length; head += headDim) {
    for (let d = 0; d < pairs; d++) {
      const re = x[head + d]!, im = x[head + d + pairs]!;
      const c = Math.cos(position * frequencies[d]!), s = Math.sin(position * frequencies[d]!);
      x[head + d] = re * c - im * s;
      x[head + d + pairs] = re * s + im * c;
    }
  }
}

/**
 * The decoder in f64, plain loops: logits `[T][V]` of the whole sequence, which starts at position 0.
 *
 * @param frequencies rotary frequencies in radians a position, `[P]`
 * @param store how the cache rounds each number of keys and values
 */
export function llamaRef(
  config: LlamaConfig,
  tensors: LlamaTensors,
  ids: readonly number[],
  frequencies: Float64Array,
  store: Round = exact,
): Float64Array {
  const { hidden, qHeads, kvHeads, headDim, normEps, vocab } = config, group = qHeads / kvHeads;
  const rows = ids.map((id) => Float64Array.from(tensors.embed.subarray(id * hidden, (id + 1) * hidden)));
  for (const layer of tensors.layers) {
    const keys: Float64Array[] = [], values: Float64Array[] = [];
    rows.forEach((x, t) => {
      const normed = rmsNorm(x, layer.attnNorm, normEps);
      const q = matvec(layer.q, normed), k = matvec(layer.k, normed);
      rotate(q, headDim, frequencies, t);
      rotate(k, headDim, frequencies, t);
      keys.push(k.map(store));
      values.push(matvec(layer.v, normed).map(store));
      const mixed = new Float64Array(qHeads * headDim);
      for (let h = 0; h < qHeads; h++) {
        const at = h * headDim, from = Math.floor(h / group) * headDim;
        const scores = keys.map((key) => {
          let sum = 0;
          for (let c = 0; c < headDim; c++) sum += q[at + c]! * key[from + c]!;
          return sum / Math.sqrt(headDim);
        });
        const most = Math.max(...scores), weights = scores.map((s) => Math.exp(s - most));
        const total = weights.reduce((a, b) => a + b);
        weights.forEach((w, s) => {
          for (let c = 0; c < headDim; c++) mixed[at + c]! += w / total * values[s]![from + c]!;
        });
      }
      matvec(layer.o, mixed).forEach((v, i) => x[i]! += v);
      const fed = rmsNorm(x, layer.ffnNorm, normEps), up = matvec(layer.up, fed);
      const gated = matvec(layer.gate, fed).map((g, i) => g / (1 + Math.exp(-g)) * up[i]!);
      matvec(layer.down, gated).forEach((v, i) => x[i]! += v);
    });
  }
  const logits = new Float64Array(ids.length * vocab), output = tensors.output ?? tensors.embed;
  rows.forEach((x, t) => logits.set(matvec(output, rmsNorm(x, tensors.norm, normEps)), t * vocab));
  return logits;
}
