import { random4 } from "./random.ts";
import { exact, type Round } from "./round.ts";

type Numbers = Float32Array | Float64Array;

/** Gumbel noise of `symbols` symbols' states [symbols][4], as `wgsl/gumbel_bits.wgsl` draws it. */
export function gumbelNoise(symbols: number, { seed, step }: { seed: number; step: number }): Float64Array {
  const noise = new Float64Array(4 * symbols);
  for (let i = 0; i < symbols; i++) {
    random4([i, step, seed, 1]).forEach((bits, s) => {
      noise[4 * i + s] = -Math.log(-Math.log(((bits >>> 9) + 0.5) * 2 ** -23));
    });
  }
  return noise;
}

/** Twin of `wgsl/gumbel_bits.wgsl`: bits of each symbol's likeliest state, and how far it leads. */
export function gumbelBitsRef(
  logits: Numbers,
  noise?: Numbers,
): { bits: Float64Array; words: Uint32Array; margins: Float64Array } {
  const symbols = logits.length / 4, bits = new Float64Array(2 * symbols), margins = new Float64Array(symbols);
  const words = new Uint32Array(symbols / 16);
  for (let i = 0; i < symbols; i++) {
    const y = Array.from({ length: 4 }, (_, s) => logits[4 * i + s]! + (noise?.[4 * i + s] ?? 0));
    const [first, second] = y.toSorted((p, q) => q - p) as [number, number], state = y.indexOf(first);
    bits[2 * i] = state === 0 || state === 2 ? 1 : 0;
    bits[2 * i + 1] = state === 1 || state === 2 ? 1 : 0;
    words[i >>> 4]! |= bits[2 * i]! << 2 * (i & 15) | bits[2 * i + 1]! << 2 * (i & 15) + 1;
    margins[i] = first - second;
  }
  return { bits, words, margins };
}

/** Softmax of every symbol's states. */
export function statesSoftmax(logits: Numbers, noise?: Numbers, round: Round = exact): Float64Array {
  const p = new Float64Array(logits.length);
  for (let i = 0; i < logits.length; i += 4) {
    let most = -Infinity, sum = 0;
    for (let s = i; s < i + 4; s++) most = Math.max(most, p[s] = round(logits[s]! + (noise?.[s] ?? 0)));
    for (let s = i; s < i + 4; s++) sum = round(sum + (p[s] = round(Math.exp(round(p[s]! - most)))));
    for (let s = i; s < i + 4; s++) p[s] = round(p[s]! / sum);
  }
  return p;
}

/** Twin of the backward form: the gradient of the logits from that of the bits. */
export function gumbelBitsBackwardRef(
  logits: Numbers,
  gradient: Numbers,
  noise?: Numbers,
  round: Round = exact,
): Float64Array {
  const out = statesSoftmax(logits, noise, round);
  for (let i = 0; i < out.length; i += 4) {
    const g0 = gradient[i / 2]!, g1 = gradient[i / 2 + 1]!, d = [g0, g1, round(g0 + g1), 0];
    let mean = 0;
    for (let s = 0; s < 4; s++) mean = round(mean + round(out[i + s]! * d[s]!));
    for (let s = 0; s < 4; s++) out[i + s] = round(out[i + s]! * round(d[s]! - mean));
  }
  return out;
}
