/**
 * Codebook files: safetensors that say which model they are for, how they code it, and how they came to be.
 *
 * Words of stage `s` of layer `l` are `layers.l.keys.s` and `layers.l.values.s`, `F16 [K][rows][P][2]`, or `I8` of the same
 * shape with `F16 [K][rows]` peaks beside them (`.peaks`; a number is n times the peak over 127), or `I8 [K][rows][P]` with
 * two numbers a byte (n times the peak over 7, the real part in the lower half; words.ts). A tied stage has the rows
 * of u alone. A side that was trained in a metric has its root as `layers.l.keys.metric`, `F16 [K][D][D]` (metric.ts); words
 * are those of the plain space all the same. The published value encoder's arrays are `layers.l.values.` and their own names.
 *
 * @module
 */
import { type CodecShape, PAIR_WORDS, publishedStages, type Stage, stageRows, stagesFor } from "../core/codec.ts";
import { FileFormatError, UnsupportedModelError } from "../core/errors.ts";
import { type ValueDims, valueWidths, type VectorDims } from "../core/shapes.ts";
import {
  readSafetensors,
  type Safetensors,
  type SafetensorsType,
  type TensorData,
  writeSafetensors,
} from "../files/safetensors.ts";
import { type ByteSource, openSource } from "../files/source.ts";
import { expectMetric } from "./metric.ts";
import { type NamedArray, VALUE_ARRAYS, type ValueArrays, valueArrayShapes } from "./value_encoder.ts";
import { levels, negated, packWords, type Precision, unpackWords } from "./words.ts";

const FORMAT = "commvq-codebook", VERSION = "2";

/** The model that a codebook is for. */
export interface ModelShape extends VectorDims {
  /** Layers. */
  readonly layers: number;
  /** Tells models of one shape apart. */
  readonly fingerprint: string;
}

/** One layer: half-precision bits of each stage, `[K][rows of the stage][P][2]`, or the published value encoder's arrays. */
export interface LayerBook {
  /** Words of keys, a stage each. */
  readonly keys: readonly Uint16Array[];
  /** Words of values, a stage each, or the network's arrays. */
  readonly values: readonly Uint16Array[] | ValueArrays;
  /** Half-precision bits `[K][D][D]` of the metrics that sides are coded in; a side without one is coded in the plain space. */
  readonly metrics?: Metrics;
}

/** Half-precision bits `[K][D][D]` of a layer's metrics, or whether there are any. */
export type Metrics<T = Uint16Array> = Readonly<Partial<Record<"keys" | "values", T>>>;

/** How many stages of each side are in use. */
export interface StageCounts {
  /** Of keys. */
  readonly keys: number;
  /** Of values. */
  readonly values: number;
}

/** How one side's tokens are coded in more stages where fewer miss too much. */
export interface Tier {
  /** Stages of all tokens. */
  readonly base: number;
  /** Stages of those whose squared error in the metric, by `base` stages, is above their head's threshold. */
  readonly stages: number;
  /** Of the calibration's tokens, those, `[layers][K]`. A cache has room for an eighth more (`moreRoom` of core/pack.ts). */
  readonly shares: readonly (readonly number[])[];
  /** `[layers][K]` */
  readonly thresholds: readonly (readonly number[])[];
}

/** Tiers of both sides. */
export interface Tiers {
  /** Of keys. */
  readonly keys: Tier;
  /** Of values. */
  readonly values: Tier;
}

/** Codebooks of a model's layers; fewer than its layers while training is under way. */
export interface Codebook {
  /** The model that it is for. */
  readonly model: ModelShape;
  /** Stages of keys. */
  readonly keys: CodecShape;
  /** Additive stages, or the published encoder's bits. */
  readonly values: CodecShape | ValueDims;
  /** How words are stored. */
  readonly precision: Precision;
  /** Ways that encoding keeps (code_beam); 1, the nearest words stage after stage, where nothing is said. */
  readonly beam?: number;
  /** Stages in use where both sides are asked for at 1 or 2 bits; as published where nothing is said. */
  readonly splits?: Readonly<Partial<Record<1 | 2, StageCounts>>>;
  /** What takes the place of `splits` at 1 or 2 bits of both sides, if there are any for these. */
  readonly tiers?: Readonly<Partial<Record<1 | 2, Tiers>>>;
  /** Words, layer by layer. */
  readonly layers: readonly LayerBook[];
  /** How it was trained: text, tokens, seed, iterations, command, distortion, as strings. */
  readonly record: Readonly<Record<string, string>>;
}

/** Whether values have additive codebooks, and not the published encoder. */
export function isAdditive(values: CodecShape | ValueDims): values is CodecShape {
  return "stages" in values;
}

/**
 * Stages of each side that stand for so many bits: the codebook's own split if both sides have equal bits, else those of
 * `stagesFor`; of the published value encoder, its bits' stages of pairs.
 */
export function stagesAt(
  { splits, keys, values }: Pick<Codebook, "splits" | "keys" | "values">,
  { k, v }: { k: 1 | 2; v: 1 | 2 },
): StageCounts {
  const own = k === v ? splits?.[k] : undefined;
  return own ?? {
    keys: stagesFor(keys, k),
    values: isAdditive(values) ? stagesFor(values, v) : publishedStages(keys.headDim, v),
  };
}

/** What one side of a codebook is coded in: its stages, the tier they are in if there are two, its words and metrics. */
export interface SideBook {
  readonly codec: CodecShape;
  readonly tier: Tier | undefined;
  /** Words of the codec's stages, layer by layer. */
  readonly words: readonly (readonly Uint16Array[])[];
  /** Layer by layer, if there are any. */
  readonly metrics: readonly (Uint16Array | undefined)[];
}

/**
 * One side at so many bits: in tiers if the codebook has some for them, else in the stages of {@linkcode stagesAt}; without
 * bits, in all its stages. Throws `UnsupportedModelError` for values of the published encoder and for too few stages.
 */
export function sideBook(
  codebook: Codebook,
  side: "keys" | "values",
  bits?: { readonly k: 1 | 2; readonly v: 1 | 2 },
): SideBook {
  const whole = codebook[side];
  if (!isAdditive(whole)) throw new UnsupportedModelError("Cannot use the published value encoder as additive codes");
  const tier = bits && bits.k === bits.v ? codebook.tiers?.[bits.k]?.[side] : undefined;
  const count = tier?.stages ?? (bits ? stagesAt(codebook, bits)[side] : whole.stages.length);
  if (count > whole.stages.length) {
    throw new UnsupportedModelError(
      `Cannot code ${side} at ${bits![side === "keys" ? "k" : "v"]} bits as the codebook has ${whole.stages.length} ` +
        `stages of the ${count}`,
    );
  }
  return {
    codec: { ...whole, stages: whole.stages.slice(0, count), ...tier && { base: tier.base } },
    tier,
    words: codebook.layers.map((layer) => (layer[side] as readonly Uint16Array[]).slice(0, count)),
    metrics: codebook.layers.map(({ metrics }) => metrics?.[side]),
  };
}

/** The codebook of the first stages alone: greedy stages do not depend on later ones. */
export function truncate(codebook: Codebook, stages: { keys: number; values?: number }): Codebook {
  const cut = (codec: CodecShape, count: number): CodecShape => {
    if (count > 0 && count <= codec.stages.length) return { ...codec, stages: codec.stages.slice(0, count) };
    throw new RangeError(`Cannot cut a codebook to ${count} stages as it has ${codec.stages.length}`);
  };
  const { tiers: _, ...rest } = codebook, { values } = codebook, count = stages.values;
  return {
    ...rest,
    keys: cut(codebook.keys, stages.keys),
    values: isAdditive(values) && count !== undefined ? cut(values, count) : values,
    layers: codebook.layers.map((layer) => ({
      keys: layer.keys.slice(0, stages.keys),
      values: isArrays(layer.values) ? layer.values : layer.values.slice(0, count),
      ...layer.metrics && { metrics: layer.metrics },
    })),
  };
}

function isArrays(values: LayerBook["values"]): values is ValueArrays {
  return !Array.isArray(values);
}

/** Rows of a stage that a file holds. */
function storedRows(stage: Stage): number {
  return stage.kind === "pair" && stage.tied ? PAIR_WORDS : stageRows(stage);
}

/** Writes a codebook in one step: an interruption leaves the old file or the new one. */
export async function writeCodebook(path: string, codebook: Codebook): Promise<void> {
  const { model, keys, values, precision, record, beam, splits, tiers } = codebook,
    tensors: Record<string, TensorData> = {};
  codebook.layers.forEach((layer, l) => {
    const put = (codec: CodecShape, side: string, stages: readonly Uint16Array[]) =>
      codec.stages.forEach((_, s) => putStage(tensors, `layers.${l}.${side}.${s}`, codec, s, stages[s]!, codebook));
    put(keys, "keys", layer.keys);
    for (const [side, data] of Object.entries(layer.metrics ?? {})) {
      const shape = [model.kvHeads, model.headDim, model.headDim];
      tensors[`layers.${l}.${side}.metric`] = { dtype: "F16", shape, data };
    }
    if (!isArrays(layer.values)) put(values as CodecShape, "values", layer.values);
    else {
      for (const name of VALUE_ARRAYS) {
        const { shape, data } = layer.values[name], dtype = data instanceof Uint16Array ? "F16" : "F32";
        tensors[`layers.${l}.values.${name}`] = { dtype, shape, data };
      }
    }
  });
  const metrics = Object.keys(codebook.layers[0]?.metrics ?? {});
  const about = {
    ...{ ...model, finished: codebook.layers.length, precision, keys: keys.stages },
    ...metrics.length > 0 && { metrics },
    ...beam !== undefined && { beam },
    ...splits && { splits },
    ...tiers && { tiers },
  };
  await writeSafetensors(path, tensors, {
    format: FORMAT,
    version: VERSION,
    ...Object.fromEntries(Object.entries(record).map(([name, value]) => [`record.${name}`, value])),
    codebook: JSON.stringify({ ...about, values: isAdditive(values) ? values.stages : { bits: values.bits } }),
  });
}

function putStage(
  tensors: Record<string, TensorData>,
  name: string,
  { headDim, stages }: CodecShape,
  index: number,
  words: Uint16Array,
  { model: { kvHeads }, precision }: Codebook,
): void {
  const stage = stages[index]!,
    most = levels(precision, index),
    rows = storedRows(stage),
    all = stageRows(stage),
    shape = [kvHeads, rows, headDim / 2, 2];
  const kept = new Uint16Array(kvHeads * rows * headDim);
  for (let k = 0; k < kvHeads; k++) {
    kept.set(words.subarray(k * all * headDim, (k * all + rows) * headDim), k * rows * headDim);
  }
  if (!most) tensors[name] = { dtype: "F16", shape, data: kept };
  else {
    const { numbers, peaks } = packWords(kept, headDim, most);
    tensors[name] = { dtype: "I8", shape: storedShape(shape, most), data: numbers };
    tensors[`${name}.peaks`] = { dtype: "F16", shape: [kvHeads, rows], data: peaks };
  }
}

/** Of words in steps of their peak: of 7, two numbers share a byte. */
function storedShape(shape: readonly number[], most: 127 | 7): readonly number[] {
  return most === 7 ? shape.slice(0, -1) : shape;
}

/** Reads a codebook, whole or from training under way. Throws `FileFormatError` for any other file. */
export async function readCodebook(location: string | URL): Promise<Codebook> {
  using source = await openSource(location);
  const file = await readSafetensors(source), { metadata } = file, read = readAbout(source.name, metadata);
  const { model, finished, precision, keys, values, metrics, beam, splits, tiers } = read, layers: LayerBook[] = [];
  for (let l = 0; l < finished; l++) {
    const get = async (codec: CodecShape, side: string): Promise<Uint16Array[]> => {
      const out: Uint16Array[] = [];
      for (const s of codec.stages.keys()) {
        out.push(await getStage(source, file, `layers.${l}.${side}.${s}`, codec, s, model.kvHeads, precision));
      }
      return out;
    };
    const own: Partial<Record<"keys" | "values", Uint16Array>> = {}, { kvHeads, headDim } = model;
    for (const side of metrics) {
      const shape = [kvHeads, headDim, headDim], name = `layers.${l}.${side}.metric`;
      own[side] = new Uint16Array(await getTensor(source, file, name, "F16", shape));
      expectRoots(source.name, name, metricCodec({ keys, values }, side), own[side]);
    }
    layers.push({
      ...metrics.length > 0 && { metrics: own },
      keys: await get(keys, "keys"),
      values: isAdditive(values) ? await get(values, "values") : await getArrays(source, file, l, values),
    });
  }
  const record = Object.entries(metadata).filter(([name]) => name.startsWith("record."));
  return {
    model,
    keys,
    values,
    precision,
    ...beam !== undefined && { beam },
    ...splits && { splits },
    ...tiers && { tiers },
    layers,
    record: Object.fromEntries(record.map(([n, v]) => [n.slice(7), v])),
  };
}

/** Throws `FileFormatError`, by name and reason, unless a whole codebook fits a model. */
export function expectFits(name: string, { model, layers }: Codebook, wanted: ModelShape): void {
  for (const key of ["layers", "kvHeads", "headDim", "fingerprint"] as const) {
    if (model[key] === wanted[key]) continue;
    const what = {
      layers: "layers",
      kvHeads: "key/value heads",
      headDim: "channels a head",
      fingerprint: "as its model's fingerprint",
    };
    throw new FileFormatError(
      `Cannot use ${name} with this model as it must have ${wanted[key]} ${what[key]}: it has ${model[key]}. ` +
        `Train a codebook for this model`,
    );
  }
  if (layers.length < model.layers) {
    throw new FileFormatError(
      `Cannot use ${name} as all ${model.layers} layers must be trained: it has ${layers.length}. Resume its training`,
    );
  }
}

interface About {
  readonly model: ModelShape;
  readonly finished: number;
  readonly precision: Precision;
  readonly keys: CodecShape;
  readonly values: CodecShape | ValueDims;
  readonly metrics: readonly ("keys" | "values")[];
  readonly beam: number | undefined;
  readonly splits: Codebook["splits"];
  readonly tiers: Codebook["tiers"];
}

function readAbout(name: string, metadata: Safetensors["metadata"]): About {
  const error = (what: string): FileFormatError => new FileFormatError(`Cannot read ${name} as a codebook as ${what}`);
  if (metadata.format !== FORMAT) throw error(`its format must be ${FORMAT}: it is ${metadata.format ?? "not given"}`);
  if (metadata.version !== VERSION) {
    throw error(`its version must be ${VERSION}: it is ${metadata.version}. Use the module that wrote it`);
  }
  try {
    const about = JSON.parse(metadata.codebook ?? ""), { layers, kvHeads, headDim, fingerprint, finished } = about;
    for (const count of [layers, kvHeads, headDim]) {
      if (!(Number.isInteger(count) && count > 0)) throw new RangeError("counts must be whole numbers above 0");
    }
    if (!(finished >= 0 && finished <= layers)) throw new RangeError(`${finished} of ${layers} layers`);
    if (!["f16", "int8", "int4"].includes(about.precision)) throw new RangeError(`precision ${about.precision}`);
    const values: CodecShape | ValueDims = Array.isArray(about.values)
      ? { headDim, stages: stagesOf(about.values, headDim) }
      : { features: kvHeads * headDim, bits: about.values.bits };
    if (!isAdditive(values)) valueWidths(values);
    const keys: CodecShape = { headDim, stages: stagesOf(about.keys, headDim) },
      { beam, splits, tiers, metrics = [] } = about;
    for (const side of metrics) expectMetric(metricCodec({ keys, values }, side));
    if (beam !== undefined && !(Number.isInteger(beam) && beam > 0)) throw new RangeError(`a beam of ${beam}`);
    for (const counts of Object.values(splits ?? {}) as StageCounts[]) {
      const fits = (count: number, codec: CodecShape | ValueDims): boolean =>
        Number.isInteger(count) && count > 0 && isAdditive(codec) && count <= codec.stages.length;
      if (!fits(counts.keys, keys) || !fits(counts.values, values)) throw new RangeError("splits beyond its stages");
    }
    for (const { keys: k, values: v } of Object.values(tiers ?? {}) as Partial<Tiers>[]) {
      const fits = (tier: Tier | undefined, codec: CodecShape | ValueDims): boolean => {
        const { base = 0, stages = 0, shares = [], thresholds = [] } = tier ?? {};
        const ofHeads = (all: Tier["shares"], fits: (x: number) => boolean): boolean =>
          all.length === layers && all.every((own) => own.length === kvHeads && own.every(fits));
        return isAdditive(codec) && Number.isInteger(base) && Number.isInteger(stages) && base > 0 && base < stages &&
          stages <= codec.stages.length && ofHeads(thresholds, Number.isFinite) &&
          ofHeads(shares, (share) => share >= 0 && share <= 1);
      };
      if (!fits(k, keys) || !fits(v, values)) throw new RangeError("tiers beyond its stages, layers or heads");
    }
    return {
      model: { layers, kvHeads, headDim, fingerprint: String(fingerprint) },
      ...{ finished, precision: about.precision, values },
      ...{ keys, metrics, beam, splits, tiers },
    };
  } catch (cause) {
    throw error(`its description is damaged: ${(cause as Error).message}`);
  }
}

/** Throws `FileFormatError` unless the words of `codec` may be compared in a metric of these roots. */
function expectRoots(file: string, name: string, codec: CodecShape, roots: Uint16Array): void {
  try {
    expectMetric(codec, roots);
  } catch (cause) {
    throw new FileFormatError(`Cannot read ${file} as a codebook because of '${name}': ${(cause as Error).message}`);
  }
}

/** The additive codec of a side that has a metric. */
function metricCodec({ keys, values }: Pick<Codebook, "keys" | "values">, side: string): CodecShape {
  const codec = side === "keys" ? keys : side === "values" ? values : undefined;
  if (codec && isAdditive(codec)) return codec;
  throw new RangeError(`a metric of ${side}`);
}

function stagesOf(list: readonly Partial<Record<string, unknown>>[], headDim: number): Stage[] {
  return list.map(({ kind, tied, pairs }) => {
    if (kind === "pair" && typeof tied === "boolean") return { kind, tied };
    if (kind === "sub" && Number.isInteger(headDim / 2 / Number(pairs))) return { kind, pairs: Number(pairs) };
    throw new RangeError(`a stage of ${JSON.stringify({ kind, tied, pairs })}`);
  });
}

async function getStage(
  source: ByteSource,
  file: Safetensors,
  name: string,
  { headDim, stages }: CodecShape,
  index: number,
  heads: number,
  precision: Precision,
): Promise<Uint16Array> {
  const stage = stages[index]!,
    most = levels(precision, index),
    rows = storedRows(stage),
    all = stageRows(stage),
    shape = [heads, rows, headDim / 2, 2];
  const kept = !most ? new Uint16Array(await getTensor(source, file, name, "F16", shape)) : unpackWords(
    new Int8Array(await getTensor(source, file, name, "I8", storedShape(shape, most))),
    new Uint16Array(await getTensor(source, file, `${name}.peaks`, "F16", [heads, rows])),
    most,
  );
  if (rows === all) return kept;
  const words = new Uint16Array(heads * all * headDim), half = rows * headDim;
  for (let k = 0; k < heads; k++) {
    for (let i = 0; i < half; i += 2) { // v = i u
      const re = kept[k * half + i]!, im = kept[k * half + i + 1]!;
      words.set([re, im], 2 * k * half + i);
      words.set([negated(im), re], (2 * k + 1) * half + i);
    }
  }
  return words;
}

async function getArrays(source: ByteSource, file: Safetensors, layer: number, dims: ValueDims): Promise<ValueArrays> {
  const out: Partial<Record<(typeof VALUE_ARRAYS)[number], NamedArray>> = {}, shapes = valueArrayShapes(dims);
  for (const name of VALUE_ARRAYS) {
    const full = `layers.${layer}.values.${name}`, shape = shapes[name];
    const dtype = file.tensors.get(full)?.dtype === "F32" ? "F32" : "F16";
    const bytes = await getTensor(source, file, full, dtype, shape);
    out[name] = { shape, data: dtype === "F32" ? new Float32Array(bytes) : new Uint16Array(bytes) };
  }
  return out as ValueArrays;
}

async function getTensor(
  source: ByteSource,
  { tensors }: Safetensors,
  name: string,
  dtype: SafetensorsType,
  shape: readonly number[],
): Promise<ArrayBuffer> {
  const entry = tensors.get(name);
  if (entry && entry.dtype === dtype && `${entry.shape}` === `${shape}`) {
    return (await source.read(entry.offset, entry.byteLength)).buffer;
  }
  throw new FileFormatError(
    `Cannot read ${source.name} as a codebook as '${name}' must be ${dtype} [${shape}]: it is ` +
      (entry ? `${entry.dtype} [${entry.shape}]` : "missing"),
  );
}
