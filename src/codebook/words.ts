/**
 * Words as they are stored: rounded to half precision, or to eight bits a number with a peak a row, and laid out as
 * the tables that encoders and decoders read.
 *
 * @module
 */
import { type CodecShape, stageRows, tableRows } from "../core/codec.ts";
import { fromF16, toF16 } from "../core/f16.ts";

/** How numbers of words are stored in a file. On the GPU they are half precision always. */
export type Precision = "f16" | "int8";

/**
 * Rows of `width` numbers, rounded to what `precision` stores, as half-precision bits. Rounding twice changes nothing, a
 * number's negative rounds to its negative, and there is one zero.
 */
export function roundWords(words: ArrayLike<number>, width: number, precision: Precision): Uint16Array {
  const out = new Uint16Array(words.length);
  for (let row = 0; row < out.length; row += width) {
    let peak = 0;
    if (precision === "int8") { for (let i = row; i < row + width; i++) peak = Math.max(peak, Math.abs(words[i]!)); }
    const step = fromF16(toF16(peak)) / 127;
    for (let i = row; i < row + width; i++) {
      const size = Math.abs(words[i]!),
        kept = precision === "f16" ? size : step > 0 ? Math.round(size / step) * step : 0;
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

/** Eight-bit numbers and each row's peak, from words rounded to them: number times peak / 127 is the word again. */
export function packInt8(halves: Uint16Array, width: number): { numbers: Int8Array; peaks: Uint16Array } {
  const numbers = new Int8Array(halves.length), peaks = new Uint16Array(halves.length / width);
  for (let row = 0; row < peaks.length; row++) {
    const at = row * width;
    for (let i = at; i < at + width; i++) peaks[row] = Math.max(peaks[row]!, halves[i]! & 0x7fff);
    const step = fromF16(peaks[row]!) / 127;
    for (let i = at; i < at + width; i++) numbers[i] = step > 0 ? Math.round(fromF16(halves[i]!) / step) : 0;
  }
  return { numbers, peaks };
}

/** The inverse of {@linkcode packInt8}. */
export function unpackInt8(numbers: Int8Array, peaks: Uint16Array): Uint16Array {
  const width = numbers.length / peaks.length;
  return Uint16Array.from(numbers, (n, i) => toF16(n * (fromF16(peaks[Math.floor(i / width)]!) / 127)));
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
