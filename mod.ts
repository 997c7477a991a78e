/**
 * Runs a LLaMA on WebGPU with its key/value cache at one or two bits an element, by Commutative Vector Quantization.
 *
 * ```ts ignore
 * import { load } from "jsr:@commvq/commvq";
 *
 * using llama = await load("models/fable-28m.Q8_0.gguf");
 * for await (const { text } of llama.generate("Once upon a time", { maxTokens: 200 })) {
 *   await Deno.stdout.write(new TextEncoder().encode(text));
 * }
 * ```
 *
 * @module
 */
export {
  type AttendOptions,
  Codec,
  type CodecOptions,
  type CodecTrainOptions,
  type PackedVectors,
  type Sides,
} from "./src/codebook/codec.ts";
export { distortionChart, distortionTable } from "./src/codebook/report.ts";
export {
  type Codebook,
  type LayerBook,
  type Metrics,
  type ModelShape,
  readCodebook,
  type StageCounts,
  type Tier,
  type Tiers,
  truncate,
  writeCodebook,
} from "./src/codebook/file.ts";
export type { TrainProgress } from "./src/codebook/train.ts";
export type { NamedArray, ValueArrayName, ValueArrays } from "./src/codebook/value_encoder.ts";
export type { Precision } from "./src/codebook/words.ts";
export type { CodecShape, PairStage, Stage, SubStage } from "./src/core/codec.ts";
export type { ValueDims, VectorDims } from "./src/core/shapes.ts";
export { type CodebookProgress, type RecordedDistortion, recordedDistortion } from "./src/codebook/train_codebook.ts";
export {
  DeviceLostError,
  FileFormatError,
  GpuMemoryError,
  GpuUnavailableError,
  ShaderError,
  UnsupportedModelError,
} from "./src/core/errors.ts";
export type { CacheDims, Quantize } from "./src/eval/codecs.ts";
export type { CodebookMethod } from "./src/eval/commvq.ts";
export {
  type CellFigures,
  type CellNote,
  evaluate,
  type EvaluateOptions,
  type Evaluation,
  type MethodFigures,
  type Regime,
} from "./src/eval/evaluate.ts";
export { BASELINE_NAMES, type Quantizer } from "./src/eval/methods.ts";
export { reportFiles, reportMarkdown } from "./src/eval/report.ts";
export type { Difference, LanguageFigures } from "./src/eval/stats.ts";
export { FAMILIES, type Family, generateTasks, parseTasks, type Task, type TaskOptions } from "./src/eval/tasks.ts";
export type { LlamaConfig, RopeScaling, WeightType } from "./src/core/model.ts";
export type { GeneratedToken, Generation, GenerationResult, StopReason, Usage } from "./src/llama/generation.ts";
export { type KvBits, type KvFigures, type KvOptions, Llama, load, type LoadOptions } from "./src/llama/llama.ts";
export { codebookBeside } from "./src/llama/compressed.ts";
export {
  type CacheInspection,
  type CodebookInspection,
  inspectCache,
  inspectFile,
  inspectModel,
  type ModelInspection,
  type StageUse,
} from "./src/llama/inspect.ts";
export {
  calibrateTiers,
  type CalibrateTiersOptions,
  defaultTiers,
  type TierPlans,
  type TierStages,
} from "./src/training/tiers.ts";
export { trainCodebooks, type TrainCodebooksOptions } from "./src/training/train.ts";
export type { SamplingOptions } from "./src/llama/sampler.ts";
export type { CacheKind } from "./src/llama/saved.ts";
export type { GenerateOptions, Prompt, Session } from "./src/llama/session.ts";
export type { Message } from "./src/text/chat.ts";
export type { Tokenizer } from "./src/text/tokenizer.ts";

if (import.meta.main) {
  // Not awaited: the command imports this module, which must have finished by then.
  import("./src/cli/main.ts").then(({ main }) => main(Deno.args)).then(Deno.exit);
}
