import { fromF16, toF16 } from "../core/f16.ts";
import { Rng } from "../core/rng.ts";
import type { CacheRounding } from "../core/rounding.ts";

const GROUP = 32;
const half = (x: number): number => fromF16(toF16(x));

/** Nearest whole number, halves to even. */
function roundEven(x: number): number {
  const below = Math.floor(x), rest = x - below;
  return rest < 0.5 ? below : rest > 0.5 ? below + 1 : below + (below & 1);
}

/** Numbers that a codec rounds together: `count` of them, `stride` apart. */
interface Run {
  readonly at: number;
  readonly stride: number;
}

function of(x: Float64Array, { at, stride }: Run): number[] {
  return Array.from({ length: GROUP }, (_, i) => x[at + i * stride]!);
}

function put(x: Float64Array, { at, stride }: Run, values: readonly number[]): void {
  values.forEach((v, i) => x[at + i * stride] = v);
}

function q8(x: number[]): number[] {
  const scale = Math.max(...x.map(Math.abs)) / 127;
  return x.map((v) => scale ? half(scale) * roundEven(v / scale) : 0);
}

function q4(x: number[]): number[] {
  const scale = x.reduce((most, v) => Math.abs(v) > Math.abs(most) ? v : most, 0) / -8;
  return x.map((v) => scale ? half(scale) * (Math.min(15, Math.floor(v / scale + 8.5)) - 8) : 0);
}

function range(x: number[], levels: number): number[] {
  const zero = half(Math.min(...x)), scale = half((Math.max(...x) - Math.min(...x)) / (levels - 1));
  return x.map((v) => scale ? scale * Math.max(0, Math.min(levels - 1, roundEven((v - zero) / scale))) + zero : zero);
}

/** The orthonormal Hadamard transform of `n` numbers from `at` on, a power of two: its own inverse. */
export function hadamard(x: Float64Array, at: number, n: number): void {
  for (let width = 1; width < n; width *= 2) {
    for (let i = at; i < at + n; i++) {
      if ((i - at) & width) continue;
      [x[i], x[i + width]] = [x[i]! + x[i + width]!, x[i]! - x[i + width]!];
    }
  }
  for (let i = at; i < at + n; i++) x[i]! /= Math.sqrt(n);
}

/** Levels of a normal variable with the least squared error (Lloyd-Max), the positive half, by their number. */
const LLOYD_MAX: Readonly<Record<number, readonly number[]>> = { 2: [0.7978846], 4: [0.4527800, 1.5104176] };

function lloyd(x: Float64Array, at: number, n: number, levels: number, seed: number): void {
  const rng = new Rng(seed), signs = Array.from({ length: n }, () => rng.below(2) ? 1 : -1);
  const norm = half(Math.hypot(...x.subarray(at, at + n))), unit = norm ? Math.sqrt(n) / norm : 0;
  for (let i = 0; i < n; i++) x[at + i]! *= signs[i]! * unit;
  hadamard(x, at, n);
  for (let i = at; i < at + n; i++) {
    const size = Math.abs(x[i]!), [inner = 0, outer = Infinity] = LLOYD_MAX[levels]!;
    x[i] = (x[i]! < 0 ? -1 : 1) * (size - inner > outer - size ? outer : inner);
  }
  hadamard(x, at, n);
  for (let i = 0; i < n; i++) x[at + i]! *= signs[i]! / Math.sqrt(n) * norm;
}

/** Twin of `wgsl/cache_round.wgsl` in f64, before the results are rounded to half precision: `[K][T][D]`. */
export function cacheRoundRef(
  source: ArrayLike<number>,
  { tokens, headDim }: { readonly tokens: number; readonly headDim: number },
  { codec, levels = 4, hadamard: rotated = false, seed = 0 }: CacheRounding,
): Float64Array {
  const x = Float64Array.from(source), heads = x.length / headDim;
  if (codec === "range over tokens") {
    for (let kv = 0; kv < heads / tokens; kv++) {
      for (let t = 0; t + GROUP <= tokens; t += GROUP) {
        for (let c = 0; c < headDim; c++) {
          const run = { at: (kv * tokens + t) * headDim + c, stride: headDim };
          put(x, run, range(of(x, run), levels));
        }
      }
    }
    return x;
  }
  const block = { q8_0: q8, q4_0: q4, range: (x: number[]) => range(x, levels), lloyd: undefined }[codec];
  for (let at = 0; at < x.length; at += headDim) {
    if (rotated) hadamard(x, at, headDim);
    if (!block) lloyd(x, at, headDim, levels, seed);
    for (let i = at; block && i < at + headDim; i += GROUP) {
      put(x, { at: i, stride: 1 }, block(of(x, { at: i, stride: 1 })));
    }
    if (rotated) hadamard(x, at, headDim);
  }
  return x;
}
