/**
 * Training codebooks for a model.
 *
 * @module
 */
import { type CodecShape, pairStages, publishedStages, type Stage, stagesFor } from "../core/codec.ts";
import { type Codebook, isAdditive, type StageCounts } from "../codebook/file.ts";
import { type CodebookProgress, trainCodebook } from "../codebook/train_codebook.ts";
import { Calibration, CALIBRATION_WINDOW, calibrationWindows } from "./calibrate.ts";
import { inside, type Llama } from "../llama/llama.ts";
import { expectTiers, type TierPlans, tierThresholds } from "./tiers.ts";

/** Options of {@linkcode trainCodebooks}. */
export interface TrainCodebooksOptions {
  /** Texts like those that the model will be used on: what they lack, the codebooks miss. */
  readonly texts: Iterable<string>;
  /** Bits an element; the stages of 1 bit are the first of those of 2. Default 2. */
  readonly bits?: 1 | 2;
  /** Tokens of the texts to train on. Default 131,072. */
  readonly tokens?: number;
  /**
   * `codebook`, the default: values by additive codebooks for each head. `encoder`: by the published network over all
   * heads.
   */
  readonly values?: "codebook" | "encoder";
  /** Trainings of the network, of which each layer's best is kept. Default 3. */
  readonly valueSeeds?: number;
  /** Key words tied as published (`v = i·u`), or free, the default. */
  readonly tied?: boolean;
  /**
   * What words of keys are fitted and coded to: `query`, the default where they are free, to what an error does to the
   * model's own queries at distances from 64 to 2,048 tokens; `plain`, as published, to its length.
   */
  readonly metric?: "query" | "plain";
  /**
   * Likewise of additive values: `output`, the default, to what an error does after the output projection, or `plain`.
   */
  readonly valueMetric?: "output" | "plain";
  /** Ways that encoding keeps, up to 8; 1 is greedy, as published. Training is greedy always. Default 4. */
  readonly beam?: number;
  /** Stages of either side, in order, in place of pairs alone: sub-vectors take fewer look-ups and smaller tables a bit. */
  readonly stages?: Readonly<Partial<Record<keyof StageCounts, readonly Stage[]>>>;
  /**
   * Stages at 1 and at 2 bits where not the published ones: as many are trained as the largest needs. Of given `stages` as
   * many as do not exceed the bits are used where nothing else is said.
   */
  readonly splits?: Readonly<Partial<Record<1 | 2, StageCounts>>>;
  /**
   * Tiers at 1 and at 2 bits, in place of `splits` there: tokens that the first stages miss by too much are coded in more,
   * by thresholds (`calibrateTiers`) of the first 16,384 tokens. Additive values only.
   */
  readonly tiers?: TierPlans;
  /** `soft` as published, or `hard`, the default, as good in a third of the steps. */
  readonly assignment?: "hard" | "soft";
  /** How words are stored: `int4` is eight bits in the first six stages and four in the others. Default `f16`. */
  readonly precision?: "f16" | "int8" | "int4";
  /** Equal seeds give equal codebooks on the same device. Default 1. */
  readonly seed?: number;
  /** Where the codebook goes, as safetensors; finished layers are in `PATH.partial` until then. */
  readonly path?: string;
  /** Goes on from `PATH.partial`, if there is one. */
  readonly resume?: boolean;
  /** Further words for the file's record: the text's name, the command. */
  readonly record?: Readonly<Record<string, string>>;
  /** Called as texts are read and tiers are found (`phase: "read"`, `"tiers"`: shares of the work), and after each stage. */
  readonly onProgress?: (
    progress: ({ phase: "read" | "tiers"; done: number; total: number }) | ({ phase: "train" } & CodebookProgress),
  ) => void;
  /** Stops; finished layers are kept in `PATH.partial`. */
  readonly signal?: AbortSignal;
}

/** Codecs of both sides at `bits` bits an element, and the stages that 1 and 2 bits use where those are not the published. */
function codecs(
  headDim: number,
  kvHeads: number,
  { bits = 2, values = "codebook", tied = false, stages = {}, splits, tiers = {} }: TrainCodebooksOptions,
) {
  const side = (name: keyof StageCounts, tied: boolean) => {
    const given = stages[name];
    const within = (bits: 1 | 2): number =>
      given ? stagesFor({ headDim, stages: given }, bits) : publishedStages(headDim, bits);
    const most = Math.max(
      tiers[bits] ? 0 : splits?.[bits]?.[name] ?? within(bits),
      ...Object.values(splits ?? {}).map((counts) => counts[name]),
      ...Object.values(tiers).map((tier) => tier[name].stages),
    );
    if (given && most > given.length) {
      throw new RangeError(`Cannot train ${most} stages of ${name} as ${given.length} are given`);
    }
    const codec: CodecShape = given ? { headDim, stages: given.slice(0, most) } : pairStages(headDim, most, tied);
    return { codec, within };
  };
  const k = side("keys", tied), v = side("values", false), isEncoder = values === "encoder";
  const counts = (bits: 1 | 2): StageCounts => ({ keys: k.within(bits), values: v.within(bits) });
  const own = stages.keys || stages.values ? { 1: counts(1), ...bits === 2 && { 2: counts(2) } } : undefined;
  return {
    keys: k.codec,
    values: isEncoder ? { features: kvHeads * headDim, bits } : v.codec,
    ...own || splits ? { splits: { ...own, ...splits } } : {},
  };
}

/**
 * Trains codebooks for a model's keys and values by EM on its own activations over texts (paper section 3), on the GPU.
 * Throws `RangeError` where the texts are too short, and what the signal was aborted with.
 */
export async function trainCodebooks(llama: Llama, options: TrainCodebooksOptions): Promise<Codebook> {
  const { texts, tokens = 131_072, onProgress, signal, tied = false, beam = 4 } = options,
    { metric = tied ? "plain" : "query", valueMetric = options.values === "encoder" ? "plain" : "output" } = options,
    { gpu, decoder, attention, config } = inside(llama);
  const windows = calibrationWindows(texts, llama.tokenizer, tokens, llama.maxContext);
  const { layers, kvHeads, headDim, context } = config, window = Math.min(CALIBRATION_WINDOW, context);
  if (llama.maxContext < Math.min(window, tokens)) {
    throw new RangeError(
      `Cannot calibrate in a context of ${llama.maxContext} tokens: load with a maxContext of ${window}`,
    );
  }
  const { tiers } = options, { keys, values, splits } = codecs(headDim, kvHeads, options);
  if (tiers) expectTiers({ keys, values }, kvHeads, tiers);
  using calibration = new Calibration(gpu, decoder, attention, windows, {
    signal,
    onProgress: (done, total) => onProgress?.({ phase: "read", done, total }),
  });
  const inMetric = {
    ...metric === "query" && { keys },
    ...valueMetric === "output" && isAdditive(values) && { values },
  };
  return await trainCodebook(
    gpu,
    { layers, kvHeads, headDim, fingerprint: llama.fingerprint },
    async (layer) => {
      const vectors = await calibration.vectors(layer), hasMetric = Object.keys(inMetric).length > 0;
      return { ...vectors, ...hasMetric && { metrics: await calibration.metrics(layer, inMetric) } };
    },
    {
      ...options,
      ...{ keys, values, splits },
      beam,
      ...tiers && {
        finish: (codebook: Codebook) =>
          tierThresholds(llama, codebook, calibration, tiers, {
            signal,
            onProgress: (done, total) => onProgress?.({ phase: "tiers", done, total }),
          }),
      },
      record: { ...options.record, metric: `keys ${metric}, values ${valueMetric}` },
      onProgress: (p) => onProgress?.({ phase: "train", ...p }),
    },
  );
}
