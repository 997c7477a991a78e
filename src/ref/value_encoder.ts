/**
 * The published value encoder's training step in f64, out of the kernels' twins.
 *
 * @module
 */
import { type ValueDims, type ValueWidths, valueWidths } from "../core/shapes.ts";
import { geluBackwardRef, geluRef } from "./gelu.ts";
import { gemmRef } from "./gemm.ts";
import { gumbelBitsBackwardRef, gumbelBitsRef, statesSoftmax } from "./gumbel_bits.ts";
import { layerNormFoldRef, layerNormUnfoldRef } from "./layer_norm_fold.ts";
import { exact, type Round } from "./round.ts";
import { unitNormRef } from "./unit_norm.ts";

type Numbers = Float32Array | Float64Array;

/** Parameters of one layer, or their gradient: laid out as in training. */
export interface ValueParameters {
  readonly linear1: Numbers;
  readonly linear2: Numbers;
  readonly codebook: Numbers;
}

/** A batch of one layer as `layerNormRef` gives it, the layer's channel scale, and the noise of its symbols. */
export interface ValueSample {
  readonly normed: Numbers;
  readonly stats: Numbers;
  readonly scale: Numbers;
  readonly noise?: Numbers;
}

/** Every intermediate of a forward pass. */
export interface ValueForward {
  readonly hidden: Float64Array;
  readonly active: Float64Array;
  readonly logits: Float64Array;
  readonly bits: Float64Array;
  readonly margins: Float64Array;
  readonly v: Float64Array;
}

const product = (a: Numbers, b: Numbers, m: number, n: number, k: number, bT: boolean, bias: boolean, round: Round) =>
  gemmRef(a, b, { bT, bias }, { batch: 1, m, n, k }, round);

function sizes(dims: ValueDims, sample: ValueSample): ValueWidths & { tokens: number; features: number } {
  return { ...valueWidths(dims), tokens: sample.stats.length / 4, features: dims.features };
}

/**
 * Runs the network. `bitsOf` replaces the hard bits: the straight-through gradient is that of the loss with the bits
 * `hard(0) + soft(parameters) - soft(0)`, where 0 stands for the parameters at which it is taken.
 */
export function valueForwardRef(
  { linear1, linear2, codebook }: ValueParameters,
  sample: ValueSample,
  dims: ValueDims,
  round: Round = exact,
  bitsOf?: (logits: Float64Array) => Float64Array,
): ValueForward {
  const { tokens, features, hidden: width, outputs, codes } = sizes(dims, sample);
  const folded = layerNormFoldRef(linear1, features, valueWidths(dims), round);
  const hidden = product(sample.normed, folded, tokens, width, features, true, true, round);
  const active = geluRef(hidden, round);
  const logits = product(active, linear2, tokens, outputs, width, true, true, round);
  const { bits: hard, margins } = gumbelBitsRef(logits, sample.noise), bits = bitsOf?.(logits) ?? hard;
  const v = product(bits, codebook, tokens, features, codes, false, false, round);
  return { hidden, active, logits, bits, margins, v };
}

/** Bits that the softmax of the states expects [symbols][2]: what the straight-through gradient is the gradient of. */
export function softBits(logits: Numbers, noise?: Numbers): Float64Array {
  const p = statesSoftmax(logits, noise), out = new Float64Array(logits.length / 2);
  for (let i = 0; i < out.length; i += 2) {
    out[i] = p[2 * i]! + p[2 * i + 2]!;
    out[i + 1] = p[2 * i + 1]! + p[2 * i + 2]!;
  }
  return out;
}

/** Half the weighted sum of squared errors, which `valueGradientRef` is the gradient of. */
export function valueLossRef(v: Numbers, { normed, stats, scale }: ValueSample): number {
  const { errors } = unitNormRef(normed, stats, scale, v, true);
  let loss = 0;
  for (let t = 0; 2 * t < errors.length; t++) loss += 0.5 * stats[4 * t + 3]! * errors[2 * t]!;
  return loss;
}

/** The gradient of every parameter. */
export function valueGradientRef(
  { linear1, linear2, codebook }: ValueParameters,
  sample: ValueSample,
  dims: ValueDims,
  forward: ValueForward,
  round: Round = exact,
): ValueParameters {
  const { tokens, features, hidden: width, outputs, codes } = sizes(dims, sample);
  const ofWeight = (d: Numbers, x: Numbers, m: number, n: number, bias: boolean): Float64Array => {
    const splits = { count: 1, apart: 0, stride: m * n + (bias ? m : 0) };
    return gemmRef(d, x, { aT: true, bias }, { batch: 1, m, n, k: tokens, splits }, round);
  };
  const { gradient: dV } = unitNormRef(sample.normed, sample.stats, sample.scale, forward.v, true, round);
  const dBits = product(dV, codebook, tokens, codes, features, true, false, round);
  const dLogits = gumbelBitsBackwardRef(forward.logits, dBits, sample.noise, round);
  const dActive = product(dLogits, linear2.subarray(0, outputs * width), tokens, width, outputs, false, false, round);
  const dHidden = geluBackwardRef(forward.hidden, dActive, round);
  const dFolded = ofWeight(dHidden, sample.normed, width, features, true);
  return {
    linear1: layerNormUnfoldRef(linear1, dFolded, features, valueWidths(dims), round),
    linear2: ofWeight(dLogits, forward.active, outputs, width, true),
    codebook: ofWeight(forward.bits, dV, codes, features, false),
  };
}
