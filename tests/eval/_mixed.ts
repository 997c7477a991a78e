/** A pass in f64 in which far tokens are seen as a codec leaves them: plain loops, all written out. */
import { fromF16, toF16 } from "../../src/core/f16.ts";
import type { SmallLlama } from "../_llama.ts";
import { VOCAB } from "../_llama.ts";

/** What is left of a layer's keys or values `[K][T][D]`. */
export type Left = (x: Float64Array, side: "keys" | "values", tokens: number) => Float64Array;

const half = (x: number): number => fromF16(toF16(x));

function product(w: Float32Array, x: Float64Array): Float64Array {
  const out = new Float64Array(w.length / x.length);
  for (let r = 0; r < out.length; r++) for (let c = 0; c < x.length; c++) out[r]! += w[r * x.length + c]! * x[c]!;
  return out;
}

function normed(x: Float64Array, gain: Float32Array, eps: number): Float64Array {
  const scale = 1 / Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / x.length + eps);
  return x.map((v, i) => v * scale * gain[i]!);
}

/**
 * Logits `[T][V]`. Queries before `from` see all exactly; others see `s > t - window` and `s < sinks` exactly and the
 * rest as `left` has it, or not at all without one.
 */
export function mixedRef(
  model: SmallLlama,
  ids: readonly number[],
  { window, sinks, from }: { window: number; sinks: number; from: number },
  left?: Left,
): Float64Array[] {
  const { hidden, qHeads, kvHeads, headDim, normEps, frequencies, tensors } = model, tokens = ids.length;
  const x = ids.map((id) => Float64Array.from(tensors.embed.subarray(id * hidden, (id + 1) * hidden)));
  const turn = (head: Float64Array, t: number): void => {
    for (let d = 0; d < headDim / 2; d++) {
      const re = head[d]!, im = head[d + headDim / 2]!, angle = t * frequencies[d]!;
      head[d] = re * Math.cos(angle) - im * Math.sin(angle);
      head[d + headDim / 2] = re * Math.sin(angle) + im * Math.cos(angle);
    }
  };
  for (const layer of tensors.layers) {
    const keys = new Float64Array(kvHeads * tokens * headDim), values = keys.slice(), queries: Float64Array[] = [];
    x.forEach((row, t) => {
      const input = normed(row, layer.attnNorm, normEps), q = product(layer.q, input), k = product(layer.k, input);
      const v = product(layer.v, input);
      for (let h = 0; h < qHeads; h++) turn(q.subarray(h * headDim, (h + 1) * headDim), t);
      queries.push(q);
      for (let h = 0; h < kvHeads; h++) {
        const head = k.subarray(h * headDim, (h + 1) * headDim), at = (h * tokens + t) * headDim;
        turn(head, t);
        keys.set(head.map(half), at);
        values.set(v.subarray(h * headDim, (h + 1) * headDim).map(half), at);
      }
    });
    const farKeys = left?.(keys, "keys", tokens).map(half), farValues = left?.(values, "values", tokens).map(half);
    x.forEach((row, t) => {
      const mixed = new Float64Array(qHeads * headDim);
      for (let h = 0; h < qHeads; h++) {
        const kv = Math.floor(h * kvHeads / qHeads), seen: { score: number; values: Float64Array; at: number }[] = [];
        for (let s = 0; s <= t; s++) {
          const near = t < from || s < sinks || s > t - window, at = (kv * tokens + s) * headDim;
          const k = near ? keys : farKeys, v = near ? values : farValues;
          if (!k || !v) continue;
          let score = 0;
          for (let c = 0; c < headDim; c++) score += queries[t]![h * headDim + c]! * k[at + c]!;
          seen.push({ score: score / Math.sqrt(headDim), values: v, at });
        }
        const most = Math.max(...seen.map(({ score }) => score));
        const total = seen.reduce((sum, { score }) => sum + Math.exp(score - most), 0);
        for (const { score, values, at } of seen) {
          for (let c = 0; c < headDim; c++) mixed[h * headDim + c]! += Math.exp(score - most) / total * values[at + c]!;
        }
      }
      product(layer.o, mixed).forEach((v, i) => row[i]! += v);
      const fed = normed(row, layer.ffnNorm, normEps), up = product(layer.up, fed);
      product(layer.down, product(layer.gate, fed).map((g, i) => g / (1 + Math.exp(-g)) * up[i]!))
        .forEach((v, i) => row[i]! += v);
    });
  }
  return x.map((row) => product(tensors.output ?? tensors.embed, normed(row, tensors.norm, normEps)));
}

/** log-softmax. */
export function logProbabilities(logits: Float64Array): Float64Array {
  const most = logits.reduce((a, b) => Math.max(a, b)), sum = logits.reduce((s, v) => s + Math.exp(v - most), 0);
  if (logits.length !== VOCAB) throw new RangeError("logits of another vocabulary");
  return logits.map((v) => v - most - Math.log(sum));
}
