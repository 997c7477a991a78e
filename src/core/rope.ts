/**
 * Rotary frequencies.
 *
 * @module
 */
import { FileFormatError } from "./errors.ts";
import type { LlamaConfig } from "./model.ts";

/**
 * `theta_d` in radians a position for each of a head's `P` pairs, scaled as the model asks. Throws `FileFormatError`
 * where a factor is no positive number.
 *
 * @param factors what each frequency is divided by, `[P]`, where a file stores it (GGUF's `rope_freqs`)
 */
export function ropeFrequencies(
  { headDim, ropeTheta, ropeScaling: scaling }: LlamaConfig,
  factors?: ArrayLike<number>,
): Float64Array {
  const pairs = headDim / 2;
  return Float64Array.from({ length: pairs }, (_, d) => {
    const theta = ropeTheta ** (-d / pairs);
    if (factors) return theta / positive(factors[d]!);
    if (scaling?.type === "linear") return theta / scaling.factor;
    if (scaling?.type !== "llama3") return theta;
    // Llama 3.1: long waves are stretched, short ones kept, those between mixed.
    const { factor, lowFreqFactor, highFreqFactor, originalContext } = scaling,
      turns = originalContext * theta / (2 * Math.PI);
    if (turns < lowFreqFactor) return theta / factor;
    if (turns > highFreqFactor) return theta;
    const smooth = (turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
    return (1 - smooth) * theta / factor + smooth * theta;
  });
}

function positive(factor: number): number {
  if (factor > 0 && factor < Infinity) return factor;
  throw new FileFormatError(`Cannot rotate by a model's rope_freqs as they must be positive numbers: one is ${factor}`);
}
