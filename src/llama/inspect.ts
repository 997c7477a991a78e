/**
 * What files hold, without a GPU.
 *
 * @module
 */
import type { LlamaConfig, WeightType } from "../core/model.ts";
import { llamaConfig, llamaFiles } from "../files/llama_config.ts";
import { fingerprint, openModel } from "../files/model_files.ts";
import { type Codebook, isAdditive, readCodebook, type Tier } from "../codebook/file.ts";
import { codeBits } from "../core/codec.ts";
import { readSafetensors } from "../files/safetensors.ts";
import { openSource } from "../files/source.ts";
import { type CacheKind, openCache } from "./saved.ts";

/** What {@linkcode inspectModel} tells. */
export interface ModelInspection {
  /** Format of the files. */
  readonly kind: "gguf" | "hf";
  /** Name of the file or folder. */
  readonly name: string;
  /** A hash of the weights: the same for the same model. */
  readonly fingerprint: string;
  /** The model's shape. */
  readonly config: LlamaConfig;
  /** Numbers in all tensors. */
  readonly parameters: number;
  /** Bytes of all tensors. */
  readonly weightBytes: number;
  /** Bytes of weights by type. */
  readonly bytesByType: Readonly<Partial<Record<WeightType, number>>>;
  /** Bytes of an f16 cache a token. */
  readonly f16BytesPerToken: number;
}

/** Reads a model's header and checks it as `load` would. `source` is what `load` takes. */
export async function inspectModel(source: string | URL): Promise<ModelInspection> {
  using files = await openModel(source);
  const config = llamaConfig(files), bytesByType: Partial<Record<WeightType, number>> = {};
  llamaFiles(files, config);
  let parameters = 0, weightBytes = 0;
  for (const { type, shape, byteLength } of files.tensors.values()) {
    parameters += shape.reduce((a, b) => a * b, 1);
    weightBytes += byteLength;
    bytesByType[type] = (bytesByType[type] ?? 0) + byteLength;
  }
  return {
    kind: files.kind,
    name: files.name,
    fingerprint: await fingerprint(files),
    config,
    parameters,
    weightBytes,
    bytesByType,
    f16BytesPerToken: 4 * config.layers * config.kvHeads * config.headDim,
  };
}

/** What {@linkcode inspectCache} tells: with whom a saved cache agrees, and what it holds. */
export interface CacheInspection extends CacheKind {
  /** Tells it from a model. */
  readonly kind: "cache";
  /** Name of the file. */
  readonly name: string;
  /** Tokens in all. */
  readonly tokens: number;
  /** Tokens of which there are codes; the others are exact. */
  readonly encoded: number;
  /** Layers. */
  readonly layers: number;
  /** Bytes of the file. */
  readonly byteLength: number;
}

/** Reads the header of a cache that a session saved. Throws `FileFormatError` for any other file. */
export async function inspectCache(source: string | URL): Promise<CacheInspection> {
  using saved = await openCache(source);
  const { kind, tokens, layout: { runs }, file, source: { name, size } } = saved;
  return {
    ...{ kind: "cache", name, ...kind, tokens: tokens.length },
    encoded: runs.reduce((sum, tokens) => sum + tokens, 0),
    layers: [...file.tensors.keys()].filter((name) => name.endsWith(".keys.exact")).length,
    byteLength: size,
  };
}

/** What {@linkcode inspectFile} tells of a codebook. */
export interface CodebookInspection {
  /** Tells it from a model. */
  readonly kind: "codebook";
  /** Name of the file. */
  readonly name: string;
  /** The model that it is for. */
  readonly model: Codebook["model"];
  /** Layers trained. */
  readonly finished: number;
  /** Bits an element of keys and of values, scales included, where all stages are used. */
  readonly bits: { readonly k: number; readonly v: number };
  /** Stages in use at 1 and at 2 bits of both sides, where its own: of all tokens, and of the `share` that have more. */
  readonly uses: Readonly<Partial<Record<1 | 2, Record<"keys" | "values", StageUse>>>>;
  /** How words are stored. */
  readonly precision: Codebook["precision"];
  /** How it was trained. */
  readonly record: Codebook["record"];
  /** Bytes of the file. */
  readonly byteLength: number;
}

/** Stages of one side: of all tokens, and in all of `share` of them. */
export interface StageUse {
  /** Of all tokens. */
  readonly base: number;
  /** Of those that the first miss by too much, if there are any. */
  readonly stages?: number;
  /** Of calibration's tokens, these. */
  readonly share?: number;
}

/** Stages in use at either number of bits, if the codebook says so itself. */
function usesOf({ splits = {}, tiers = {} }: Codebook): CodebookInspection["uses"] {
  const uses: Partial<Record<1 | 2, Record<"keys" | "values", StageUse>>> = {};
  for (const bits of [1, 2] as const) {
    const split = splits[bits], tier = tiers[bits];
    const of = ({ base, stages, shares }: Tier): StageUse => {
      const all = shares.flat();
      return { base, stages, share: all.reduce((a, b) => a + b, 0) / all.length };
    };
    if (tier) uses[bits] = { keys: of(tier.keys), values: of(tier.values) };
    else if (split) uses[bits] = { keys: { base: split.keys }, values: { base: split.values } };
  }
  return uses;
}

/** Tells what a model, a codebook or a saved cache holds. Throws `FileFormatError` for what is none of them. */
export async function inspectFile(
  source: string | URL,
): Promise<ModelInspection | CodebookInspection | CacheInspection> {
  if (!/\.safetensors$/i.test(String(source))) return await inspectModel(source);
  using file = await openSource(source);
  const { metadata: { format } } = await readSafetensors(file), { name, size: byteLength } = file;
  if (format !== "commvq-codebook") return await inspectCache(source);
  const codebook = await readCodebook(source), { model, keys, values, precision, layers, record } = codebook;
  const scale = 16 / model.kvHeads, bits = (codes: number): number => (codes + scale) / model.headDim;
  const v = isAdditive(values) ? bits(codeBits(values)) : values.bits;
  return {
    ...{ kind: "codebook", name, model, finished: layers.length, precision, record, byteLength },
    ...{ bits: { k: bits(codeBits(keys)), v }, uses: usesOf(codebook) },
  };
}
