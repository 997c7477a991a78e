/**
 * Words as they are stored: rounded to half precision, or to eight or four bits a number with a peak a row, and laid out
 * as the tables that encoders and decoders read.
 *
 * @module
 */
import { type CodecShape, stageRows, tableRows } from "../core/codec.ts";
import { fromF16, toF16 } from "../core/f16.ts";

/**
 * How numbers of words are stored in a file: `int4` is eight bits in the first six stages and four in the others, whose
 * words are small next to the vectors. On the GPU they are half precision always.
 */
export type Precision = "f16" | "int8" | "int4";

/** The largest number that a stage's words are stored as, over their row's peak; none in half precision. */
export function levels(precision: Precision, stage: number): 127 | 7 | undefined {
  return precision === "f16" ? undefined : precision === "int4" && stage >= 6 ? 7 : 127;
}

/**
 * Rows of `width` numbers, rounded to `most` steps of their peak or to half precision, as half-precision bits. Rounding
 * twice changes nothing, a number's negative rounds to its negative, and there is one zero.
 */
export function roundWords(words: ArrayLike<number>, width: number, most?: number): Uint16Array {
  const out = new Uint16Array(words.length);
  for (let row = 0; row < out.length; row += width) {
    let peak = 0;
    if (most) { for (let i = row; i < row + width; i++) peak = Math.max(peak, Math.abs(words[i]!)); }
    const step = most ? fromF16(toF16(peak)) / most : 0;
    for (let i = row; i < row + width; i++) {
      const size = Math.abs(words[i]!),
        kept = !most ? size : step > 0 ? Math.round(size / step) * step : 0;
      const half = toF16(kept);
      out[i] = words[i]! < 0 ? negated(half) : half;
    }
  }
  return out;
}

/** Half-precision bits of a number's negative; zero stays zero. */
export function negated(half: number): number {
  return half === 0 ? 0 : half ^ 0x8000;
}

/**
 * Numbers and each row's peak, from words rounded to them: number times peak / `most` is the word again. Of 7 steps, two
 * numbers share a byte, the first in its lower half.
 */
export function packWords(
  halves: Uint16Array,
  width: number,
  most: 127 | 7,
): { numbers: Int8Array; peaks: Uint16Array } {
  const numbers = new Int8Array(halves.length), peaks = new Uint16Array(halves.length / width);
  for (let row = 0; row < peaks.length; row++) {
    const at = row * width;
    for (let i = at; i < at + width; i++) peaks[row] = Math.max(peaks[row]!, halves[i]! & 0x7fff);
    const step = fromF16(peaks[row]!) / most;
    for (let i = at; i < at + width; i++) numbers[i] = step > 0 ? Math.round(fromF16(halves[i]!) / step) : 0;
  }
  if (most === 127) return { numbers, peaks };
  return {
    numbers: Int8Array.from({ length: numbers.length / 2 }, (_, i) => numbers[2 * i]! & 15 | numbers[2 * i + 1]! << 4),
    peaks,
  };
}

/** The inverse of {@linkcode packWords}. */
export function unpackWords(packed: Int8Array, peaks: Uint16Array, most: 127 | 7): Uint16Array {
  const share = most === 127 ? 1 : 2, out = new Float32Array(share * packed.length), width = out.length / peaks.length;
  for (let row = 0, i = 0; row < peaks.length; row++) {
    const step = fromF16(peaks[row]!) / most;
    for (const end = i + width; i < end; i++) {
      out[i] = step * (share === 1 ? packed[i]! : packed[i >> 1]! << (i % 2 === 0 ? 28 : 24) >> 28);
    }
  }
  return new Uint16Array(new Float16Array(out).buffer);
}

/**
 * The table `u32 [K][rows][P]` of a codec from its stages' words, half-precision bits `[K][rows of the stage][P][2]`
 * each.
 */
export function tableOf(codec: CodecShape, heads: number, stages: readonly Uint16Array[]): Uint32Array {
  const rows = tableRows(codec), out = new Uint16Array(heads * rows * codec.headDim);
  let row = 0;
  codec.stages.forEach((stage, s) => {
    const size = stageRows(stage) * codec.headDim;
    for (let head = 0; head < heads; head++) {
      out.set(stages[s]!.subarray(head * size, (head + 1) * size), (head * rows + row) * codec.headDim);
    }
    row += stageRows(stage);
  });
  return new Uint32Array(out.buffer);
}
