/**
 * What a model's files hold, without a GPU.
 *
 * @module
 */
import type { LlamaConfig, WeightType } from "../core/model.ts";
import { llamaConfig, llamaFiles } from "../files/llama_config.ts";
import { fingerprint, openModel } from "../files/model_files.ts";

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
