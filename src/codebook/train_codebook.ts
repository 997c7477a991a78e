/**
 * Training of a model's whole codebook, layer by layer, that can be interrupted and resumed.
 *
 * @module
 */
import type { CodecShape } from "../core/codec.ts";
import type { ValueDims, VectorDims } from "../core/shapes.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import {
  type Codebook,
  isAdditive,
  type LayerBook,
  type Metrics,
  type ModelShape,
  readCodebook,
  writeCodebook,
} from "./file.ts";
import { tokensOf, type Vectors } from "./head_group.ts";
import { layerNmse, type TrainOptions, type TrainProgress, trainStages } from "./train.ts";
import type { ValueArrays } from "./value_encoder.ts";
import { trainValueEncoder } from "./value_encoder_train.ts";

/** Numbers that are read back at a time. */
const READ = 2 ** 24;

/** How training of a codebook goes. The published value encoder reports one stage, and no distortion before its end. */
export interface CodebookProgress extends Omit<TrainProgress, "done"> {
  /** Layer in training. */
  readonly layer: number;
  /** Layers in all. */
  readonly layers: number;
  /** What of it is in training. */
  readonly side: "keys" | "values";
  /** An estimate from the work done so far. */
  readonly secondsLeft: number;
}

/** Options of {@linkcode trainCodebook}. */
export interface TrainCodebookOptions
  extends Omit<TrainOptions, "onProgress" | "metric">, Pick<Codebook, "beam" | "splits"> {
  readonly keys: CodecShape;
  /** Additive stages, or the published encoder's bits. */
  readonly values: CodecShape | ValueDims;
  /** Steps of the published value encoder. Default 3,000. */
  readonly valueSteps?: number;
  /** Trainings of the published value encoder, of which each layer's best is kept. Default 3. */
  readonly valueSeeds?: number;
  /** Where the codebook goes. While training is under way, finished layers are in `PATH.partial`. */
  readonly path?: string;
  /** Goes on from `PATH.partial`, if there is one. */
  readonly resume?: boolean;
  /** Further words for the file's record: the text's name, the command. */
  readonly record?: Readonly<Record<string, string>>;
  /** What is added once all layers are trained, and before `PATH.partial` is gone. */
  readonly finish?: (codebook: Codebook) => Promise<Codebook>;
  readonly onProgress?: (progress: CodebookProgress) => void;
}

/** Keys before RoPE, and values, of one layer. Disposed once the layer is trained. */
export interface LayerVectors extends Partial<Disposable> {
  readonly keys: Vectors;
  readonly values: Vectors;
  /** Half-precision bits `[K][D][D]` of the metrics that sides are fitted and coded in, if any. */
  readonly metrics?: Metrics;
}

/** NMSE on the training vectors, in their metrics, `[layers][stages]`, as a codebook's record has it. */
export interface RecordedDistortion {
  /** Of keys. */
  readonly keys: readonly (readonly number[])[];
  /** Of values. */
  readonly values: readonly (readonly number[])[];
}

/** What a codebook's record says of its distortion. */
export function recordedDistortion({ record }: Codebook): RecordedDistortion {
  return JSON.parse(record.distortion ?? '{"keys":[],"values":[]}');
}

/** Trainings of the published network, of which the best is kept, unless told otherwise. */
const VALUE_SEEDS = 3;

/**
 * Trains every layer of a model from what `vectors` gives for it, and saves after each. Layers are independent and each
 * has its seed, so a resumed run ends with the same codebook as an undisturbed one. Throws `RangeError` where a partial
 * codebook was begun with other settings, and what the signal was aborted with.
 */
export async function trainCodebook(
  gpu: Gpu,
  model: ModelShape,
  vectors: (layer: number) => Promise<LayerVectors>,
  options: TrainCodebookOptions,
): Promise<Codebook> {
  const { keys, values, precision = "f16", path, seed = 1, iterations, assignment = "hard", beam, splits } = options;
  const settings = {
    ...{ seed: `${seed}`, iterations: `${iterations ?? "default"}`, assignment, ...options.record },
    ...!isAdditive(values) && { valueSeeds: `${options.valueSeeds ?? VALUE_SEEDS}` },
  };
  let codebook: Codebook = {
    ...{ model, keys, values, precision, layers: [], record: settings },
    ...beam !== undefined && { beam },
    ...splits && { splits },
  };
  const partial = `${path}.partial`;
  if (path && options.resume) codebook = await resumed(partial, codebook);
  const begun = codebook.layers.length, start = performance.now();
  const share = isAdditive(values) ? keys.stages.length / (keys.stages.length + values.stages.length) : 0.5;
  for (let layer = begun; layer < model.layers; layer++) {
    const given = await vectors(layer);
    using _given = { [Symbol.dispose]: () => given[Symbol.dispose]?.() };
    const report = (side: "keys" | "values") => ({ done, ...progress }: TrainProgress): void => {
      const part = (layer - begun + (side === "keys" ? share * done : share + (1 - share) * done)) /
        (model.layers - begun);
      const secondsLeft = (performance.now() - start) / 1e3 * (1 / part - 1);
      options.onProgress?.({ ...progress, layer, layers: model.layers, side, secondsLeft });
    };
    const own = { ...options, seed: seed + 2 * Math.imul(layer + 1, 0x27d4eb2f) };
    const { metrics } = given, onProgress = report("keys");
    const trained = await trainStages(gpu, model, given.keys, keys, { ...own, metric: metrics?.keys, onProgress });
    const coded = await trainValues(
      ...[gpu, model, given.values, { ...own, seed: own.seed + 1, metric: metrics?.values }] as const,
      report("values"),
    );
    const { keys: keyNmse, values: valueNmse } = recordedDistortion(codebook);
    const distortion = { keys: [...keyNmse, layerNmse(trained, "keys")], values: [...valueNmse, coded.nmse] };
    codebook = {
      ...codebook,
      layers: [...codebook.layers, { keys: trained.stages, values: coded.values, ...metrics && { metrics } }],
      record: {
        ...codebook.record,
        tokens: `${tokensOf(given.keys, model)}`,
        device: gpu.description,
        distortion: JSON.stringify(distortion),
      },
    };
    if (path) await writeCodebook(partial, codebook);
  }
  const whole = await options.finish?.(codebook) ?? codebook;
  if (path) {
    await writeCodebook(path, whole);
    await Deno.remove(partial).catch(() => {});
  }
  return whole;
}

/** The partial codebook of a file that was begun with the settings of `fresh`; `fresh` itself where there is none. */
async function resumed(partial: string, fresh: Codebook): Promise<Codebook> {
  let found: Codebook;
  try {
    found = await readCodebook(partial);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return fresh;
    throw error;
  }
  const told = ({ model, keys, values, precision, record, beam, splits }: Codebook): Record<string, string> => ({
    model: JSON.stringify(model, ["layers", "kvHeads", "headDim", "fingerprint"]),
    keys: described(keys),
    values: described(values),
    ...{ precision, beam: `${beam ?? 1}`, splits: JSON.stringify(splits ?? "as published") },
    ...Object.fromEntries(Object.keys(fresh.record).map((name) => [name, record[name] ?? "not told"])),
  });
  const was = told(found), wanted = told(fresh);
  for (const name in wanted) {
    if (was[name] === wanted[name]) continue;
    throw new RangeError(
      `Cannot resume ${partial} as its ${name} must be ${wanted[name]}: it is ${was[name]}. Use the settings that it ` +
        `was begun with, or start anew without resuming`,
    );
  }
  return found;
}

/** A codec in words. */
function described(codec: CodecShape | ValueDims): string {
  if (!isAdditive(codec)) return `the encoder at ${codec.bits} bits`;
  return codec.stages.map((s) => s.kind === "sub" ? `groups of ${s.pairs}` : s.tied ? "tied" : "untied").join(", ");
}

/** One layer's values by either codec, and their NMSE by stage. */
async function trainValues(
  gpu: Gpu,
  model: ModelShape,
  vectors: Vectors,
  options: TrainCodebookOptions & Pick<TrainOptions, "metric">,
  onProgress: (progress: TrainProgress) => void,
): Promise<{ values: LayerBook["values"]; nmse: number[] }> {
  const { values: codec, seed, signal, valueSteps: steps, valueSeeds: seeds = VALUE_SEEDS } = options;
  if (isAdditive(codec)) {
    const trained = await trainStages(gpu, model, vectors, codec, { ...options, onProgress });
    return { values: trained.stages, nmse: layerNmse(trained, "values") };
  }
  using rows = await rowsOf(gpu, model, vectors);
  using encoder = await trainValueEncoder(gpu, [rows], {
    ...{ bits: codec.bits, seed, seeds, signal, steps },
    onProgress: ({ step, steps, losses }) =>
      onProgress({ head: 0, stage: 0, stages: 1, distortion: losses[0]!, done: step / steps }),
  });
  const values: ValueArrays = encoder.arrays(0);
  return { values, nmse: [await encoder.distortion(0, rows)] };
}

/** Values of all parts as one tensor `f32 [T][K·D]`, which the caller owns. */
export async function rowsOf(gpu: Gpu, model: VectorDims, vectors: Vectors): Promise<Tensor> {
  const { form, parts, offset = 0 } = vectors,
    features = model.kvHeads * model.headDim,
    tokens = tokensOf(vectors, model);
  if (form !== "rows") throw new TypeError("Cannot train a value encoder on values of a cache: give them as rows");
  const rows = new Float32Array(tokens * features);
  let at = 0;
  for (const part of parts) {
    if (part instanceof Float32Array) {
      rows.set(part, at);
      at += part.length;
      continue;
    }
    const [all, width] = part.shape as [number, number], step = Math.max(1, Math.floor(READ / width));
    for (let first = 0; first < all; first += step) {
      const count = Math.min(step, all - first), numbers = await gpu.readF32(part.view(first * width, [count, width]));
      for (let from = offset; from < numbers.length; from += width, at += features) {
        rows.set(numbers.subarray(from, from + features), at);
      }
    }
  }
  return gpu.upload("values", "f32", [tokens, features], rows);
}
