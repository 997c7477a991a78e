/**
 * Codecs that need no calibration, as what they do to numbers of a cache.
 *
 * @module
 */

/** A published way to round keys or values. Scales and zeros are rounded to half precision. */
export interface CacheRounding {
  /**
   * - `q8_0`, `q4_0`: llama.cpp's blocks of 32 channels;
   * - `range`: uniform levels from the least to the most of 32 channels of a token, KIVI's values;
   * - `range over tokens`: of 32 tokens of a channel, KIVI's keys; an incomplete last group stays exact;
   * - `lloyd`: random signs, Hadamard, the head's norm, Lloyd-Max levels of a normal variable: TurboQuant-mse.
   */
  readonly codec: "q8_0" | "q4_0" | "range" | "range over tokens" | "lloyd";
  /** Levels of a range; 2 or 4 of `lloyd`. */
  readonly levels?: number;
  /** Whether each head goes through a Hadamard rotation before `q8_0` or `q4_0`, and back after. */
  readonly hadamard?: boolean;
  /** Of `lloyd`'s signs. */
  readonly seed?: number;
}
