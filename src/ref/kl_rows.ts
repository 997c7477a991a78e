import { exact, type Round } from "./round.ts";

/** Log-probabilities of a row of logits. */
function logSoftmax(row: Float32Array, round: Round): Float64Array {
  let most = -Infinity, sum = 0;
  for (const x of row) most = Math.max(most, x);
  for (const x of row) sum = round(sum + round(Math.exp(round(x - most))));
  return Float64Array.from(row, (x) => round(round(x - most) - round(Math.log(sum))));
}

/** Twin of `wgsl/kl_rows.wgsl` in f64, by the definition; `round = Math.fround` gives the naive f32 version. */
export function klRowsRef(p: Float32Array, q: Float32Array, tokens: number, round: Round = exact): Float64Array {
  const vocab = p.length / tokens;
  return Float64Array.from({ length: tokens }, (_, t) => {
    const logP = logSoftmax(p.subarray(t * vocab, (t + 1) * vocab), round);
    const logQ = logSoftmax(q.subarray(t * vocab, (t + 1) * vocab), round);
    let sum = 0;
    for (let i = 0; i < vocab; i++) {
      const mass = round(Math.exp(logP[i]!));
      if (mass > 0) sum = round(sum + round(mass * round(logP[i]! - logQ[i]!)));
    }
    return sum;
  });
}
