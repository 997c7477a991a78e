/**
 * What evaluation compares: ways to keep the far part of a cache, by name.
 *
 * @module
 */
import { BASELINES } from "./baselines.ts";
import { beforeRope, functionCodec, noiseOf, type Quantize, roundingCodec } from "./codecs.ts";
import type { Far, Forward } from "./forward.ts";
import { calibrateKvQuant, kvQuantCodec } from "./kvquant.ts";

/** One way to keep far keys and values. */
export interface Method {
  /** As tables call it. */
  readonly name: string;
  /** What stands behind the name. */
  readonly about: string;
  /** Codes and scales in bits an element, keys and values together. */
  readonly bitsCode: number;
  /** Bytes that all tokens share: codebooks, encoders, ranges. */
  readonly sharedBytes: number;
  readonly far: Far;
  /** Whether it is there to be compared with, and its figures with tasks would say nothing. */
  readonly control?: boolean;
}

/** The exact cache, which every figure is relative to. */
export const EXACT: Method = {
  name: "fp16",
  about: "the exact cache, in half precision",
  bitsCode: 16,
  sharedBytes: 0,
  far: "exact",
};

/** Nothing but window and sinks: a method that does not clearly beat it has shown nothing. */
export const ANCHOR: Method = {
  name: "0bit",
  about: "the window and the sinks alone: far tokens are gone",
  bitsCode: 0,
  sharedBytes: 0,
  far: "dropped",
};

const KVQUANT = "kvquant2", NOISE = "noise:";

/** Names that {@linkcode baselineMethods} knows; `noise:` may stand before any of them. */
export const BASELINE_NAMES: readonly string[] = [...BASELINES.map((b) => b.name), KVQUANT].toSorted();

/** Throws `RangeError` for a name that is no baseline's. */
export function expectBaselines(names: readonly string[]): void {
  for (const name of names) {
    const plain = name.startsWith(NOISE) ? name.slice(NOISE.length) : name;
    if (!BASELINE_NAMES.includes(plain) && name !== EXACT.name && name !== ANCHOR.name) {
      throw new RangeError(`Cannot compare with '${name}': the baselines are ${BASELINE_NAMES.join(", ")}`);
    }
  }
}

/**
 * Baselines by name, ready for a model. `noise:NAME` is the control of a baseline: normal noise of the size of its error.
 *
 * @param calibration texts as ids, for those baselines that need some
 */
export async function baselineMethods(
  forward: Forward,
  names: readonly string[],
  calibration: readonly (readonly number[])[],
): Promise<Method[]> {
  expectBaselines(names);
  const { gpu, config: { layers, kvHeads, headDim } } = forward, out: Method[] = [];
  const make = async (name: string): Promise<Method> => {
    if (name.startsWith(NOISE)) {
      const of = await make(name.slice(NOISE.length));
      const about = `control: normal noise in place of ${of.name}'s error, of the same size in every channel`;
      if (typeof of.far !== "object") throw new RangeError(`Cannot make noise of '${of.name}' as it has no codec`);
      return { ...of, name, about, far: noiseOf(gpu, of.far), control: true };
    }
    const baseline = BASELINES.find((b) => b.name === name);
    if (baseline) {
      return {
        ...{ name, about: baseline.about, bitsCode: baseline.bits(headDim), sharedBytes: 0 },
        far: await roundingCodec(gpu, headDim, baseline),
      };
    }
    if (calibration.length === 0) throw new RangeError(`Cannot calibrate '${name}' without calibration texts`);
    return {
      name,
      about:
        "KVQuant-nuq2, dense and without Fisher weights: keys before RoPE in fixed channel ranges, values by token",
      bitsCode: 2 + 32 / (kvHeads * headDim) / 2,
      sharedBytes: layers * (4 * kvHeads * headDim + 4 * 4 * 2),
      far: kvQuantCodec(forward, await calibrateKvQuant(forward, calibration)),
    };
  };
  for (const name of new Set(names)) if (name !== EXACT.name && name !== ANCHOR.name) out.push(await make(name));
  return out;
}

/** A quantizer of one's own, by functions on the CPU. */
export interface Quantizer {
  /** As tables call it. */
  readonly name: string;
  /** What stands behind the name. */
  readonly about?: string;
  /** Codes and scales in bits an element, keys and values together. */
  readonly bitsCode: number;
  /** Bytes that all tokens share; 0 by default. */
  readonly sharedBytes?: number;
  /** What it does to a layer's keys. */
  readonly keys: Quantize;
  /** What it does to a layer's values. */
  readonly values: Quantize;
  /** Whether it takes keys before RoPE; by default it is given them after it. */
  readonly beforeRope?: boolean;
}

/** Makes a quantizer a method. */
export function quantizerMethod(forward: Forward, quantizer: Quantizer): Method {
  const { name, about = "a quantizer of one's own", bitsCode, sharedBytes = 0, values } = quantizer;
  const { frequencies } = forward.engine.decoder.weights;
  const keys = quantizer.beforeRope ? beforeRope(frequencies, quantizer.keys) : quantizer.keys;
  return { name, about, bitsCode, sharedBytes, far: functionCodec(forward.gpu, { keys, values }) };
}
