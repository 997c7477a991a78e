/** Vectors that look like a layer's: correlated, of uneven size, with a mean. */
import { Rng } from "../../src/core/rng.ts";

/** Rows `[T][K·D]` of two dozen directions mixed with noise. The directions depend on `world`, the rows on `seed`. */
export function correlated(tokens: number, features: number, seed: number, world = 99): Float32Array {
  const basis = new Rng(world), rng = new Rng(seed), rank = 24;
  const directions = Float32Array.from({ length: rank * features }, () => basis.normal());
  const means = Float32Array.from({ length: features }, () => basis.normal());
  const rows = new Float32Array(tokens * features);
  for (let t = 0; t < tokens; t++) {
    const size = Math.exp(0.3 * rng.normal()), own = rows.subarray(t * features, (t + 1) * features);
    own.forEach((_, c) => own[c] = means[c]! + 0.3 * rng.normal());
    for (let r = 0; r < rank; r++) {
      const weight = (rng.below(4) === 0 ? 2 : 0.3) * rng.normal() / Math.sqrt(1 + r);
      for (let c = 0; c < features; c++) own[c]! += weight * directions[r * features + c]!;
    }
    own.forEach((x, c) => own[c] = x * size);
  }
  return rows;
}
