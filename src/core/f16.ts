/**
 * IEEE half precision, packed and unpacked.
 *
 * @module
 */

const f32 = new Float32Array(1), bits = new Uint32Array(f32.buffer);

/** The nearest half-precision number's 16 bits, ties to even; overflow gives infinity. */
export function toF16(value: number): number {
  f32[0] = value;
  const x = bits[0]!, sign = (x >>> 16) & 0x8000, magnitude = x & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00; // NaN
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // rounds past the largest
  if (magnitude >= 0x38800000) { // normal
    const rebased = magnitude - 0x38000000;
    return sign | ((rebased + 0xfff + ((rebased >>> 13) & 1)) >>> 13);
  }
  if (magnitude < 0x33000000) return sign; // rounds to zero
  const exponent = magnitude >>> 23, mantissa = (magnitude & 0x7fffff) | 0x800000, shift = 126 - exponent;
  const half = 1 << (shift - 1), odd = (mantissa >>> shift) & 1;
  return sign | ((mantissa + half - 1 + odd) >>> shift);
}

/** The number that 16 bits of half precision stand for. */
export function fromF16(half: number): number {
  const sign = half & 0x8000 ? -1 : 1, exponent = (half >>> 10) & 31, mantissa = half & 0x3ff;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return sign * (exponent === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (exponent - 25));
}

/** Rounds numbers to half precision. */
export function toF16Array(values: ArrayLike<number>): Uint16Array {
  return Uint16Array.from(values, toF16);
}

/** Numbers of half-precision bits. */
export function fromF16Array(halves: Uint16Array): Float32Array {
  return Float32Array.from(halves, fromF16);
}
