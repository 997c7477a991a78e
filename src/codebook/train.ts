/**
 * Training of additive codebooks by EM, for keys before RoPE (paper, section 4; commvq.md 2) and for values alike.
 *
 * Every head is a codec of its own. Stage after stage, its words are fitted to what the stages before them have missed:
 * an exact E step on the GPU, an M step in f64 here, again and again.
 *
 * @module
 */
import { type CodecShape, type Stage, stageRows } from "../core/codec.ts";
import { fromF16Array } from "../core/f16.ts";
import { Rng } from "../core/rng.ts";
import type { VectorDims } from "../core/shapes.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { headBytes, HeadGroup, type HeadStep, tokensOf, type Vectors, zeroWords } from "./head_group.ts";
import { expectMetric, headMetric, inverted, metricWords, timesMatrix } from "./metric.ts";
import { solveStage } from "./solve.ts";
import { levels, type Precision, roundWords } from "./words.ts";

/** How many M steps a stage has, unless told: the soft schedule's are the published ones. */
const ITERATIONS = { hard: 30, soft: 100 };
/** Hard steps go this far past the M step's minimum: any factor below 2 cannot raise the error, this one saves two of three. */
const RELAXATION = 1.7;
/** Steps at the end of a stage that go to the minimum itself. */
const SETTLE = 2;
/** The published rule: stop when the loss has come closer than this above its best (commvq.md 2.3). */
const PUBLISHED_STOP = 1e-5;
/** GPU memory for training, the vectors themselves apart, unless told. */
const MEMORY = 1.5 * 2 ** 30;

/** How training goes. */
export interface TrainProgress {
  /** Head in training. */
  readonly head: number;
  /** Stage just trained, from 0. */
  readonly stage: number;
  /** Stages in all. */
  readonly stages: number;
  /** NMSE of the head after this stage, on the training vectors. */
  readonly distortion: number;
  /** Share of these vectors' work that is done. */
  readonly done: number;
}

/** Options of {@linkcode trainStages}. */
export interface TrainOptions {
  /** Decides the words that each stage starts from. Default 1. */
  readonly seed?: number;
  /** M steps of a stage. Default 30, or 100 for soft assignment. */
  readonly iterations?: number;
  /**
   * `soft`: as published, `softmax(-distance / T)` with its schedule and stop rule; pair stages only. `hard`, the default:
   * nearest words and over-relaxed M steps, as good in a third of the steps.
   */
  readonly assignment?: "hard" | "soft";
  /** How words will be stored: later stages make up for the rounding of earlier ones. Default `f16`. */
  readonly precision?: Precision;
  /**
   * Half-precision bits `[K][D][D]` of each head's metric (metric.ts): errors are measured, and words fitted, in its space,
   * for codecs without ties. Scales stay those of the plain vectors.
   */
  readonly metric?: Uint16Array;
  /** Bytes of GPU memory to work in, the vectors themselves apart. Default 1.5 GiB. */
  readonly memory?: number;
  readonly onProgress?: (progress: TrainProgress) => void;
  /** Stops between steps. */
  readonly signal?: AbortSignal;
}

/** What a codec misses of one layer's vectors. */
export interface Distortion {
  /** NMSE by stage and head, `[stages][K]`: squared error over squared norm, both in the metric and summed over tokens. */
  readonly nmse: readonly Float64Array[];
  /** Squared norms of each head, summed over tokens. */
  readonly energy: Float64Array;
}

/** Words of one layer's keys or values, and what they miss. */
export interface TrainedStages extends Distortion {
  /** Half-precision bits of each stage, `[K][rows of the stage][P][2]`. */
  readonly stages: readonly Uint16Array[];
}

/** One number a stage for a whole layer: the mean of its heads' NMSE for keys, all heads' numbers as one for values. */
export function layerNmse({ nmse, energy }: Distortion, side: "keys" | "values"): number[] {
  const weights = side === "keys" ? energy.map(() => 1) : energy, total = weights.reduce((a, b) => a + b) || 1;
  return nmse.map((heads) => heads.reduce((sum, x, h) => sum + x * weights[h]!, 0) / total);
}

/** A head in training. */
interface Head {
  readonly words: Uint16Array[];
  /** Sum of squared norms, then of squared errors after each stage. */
  readonly losses: number[];
  current: Float64Array;
  best: Uint16Array;
  bestLoss: number;
  stopped: boolean;
  last?: HeadStep;
}

/**
 * Trains the stages of all heads of one layer's `vectors`. Deterministic by seed and device, and a head's words do not
 * depend on how many heads are trained at once. Throws `RangeError` where there is no token or one head is more than the
 * memory holds, and what the signal was aborted with.
 */
export async function trainStages(
  gpu: Gpu,
  dims: VectorDims,
  vectors: Vectors,
  codec: CodecShape,
  options: TrainOptions = {},
): Promise<TrainedStages> {
  const { kvHeads, headDim } = dims, tokens = tokensOf(vectors, dims), { seed = 1, assignment = "hard" } = options;
  const isSoft = assignment === "soft", { metric } = options;
  if (metric) expectMetric(codec, metric);
  if (!(tokens > 0)) throw new RangeError("Cannot train a codebook as there must be at least one token: there is none");
  const bytes = headBytes(headDim, tokens, codec.stages, isSoft);
  const { size, turns } = headsAtOnce(gpu, kvHeads, bytes, 4 * Math.max(headDim, isSoft ? 128 : 0) * tokens, options),
    set = size * turns;
  const heads: Head[] = [];
  for (let first = 0; first < kvHeads; first += set) {
    using stack = new DisposableStack();
    const groups: Trainer[] = [];
    for (let head = first; head < Math.min(kvHeads, first + set); head += size) {
      const count = Math.min(size, kvHeads - head);
      const group = stack.use(await HeadGroup.create(gpu, dims, vectors, { head, heads: count, isSoft, metric }));
      groups.push(
        new Trainer(group, codec, options, Array.from({ length: count }, (_, h) => streamOf(seed, head + h))),
      );
    }
    for (let stage = 0; stage < codec.stages.length; stage++) {
      await trainStage(groups, stage, options);
      const width = Math.min(set, kvHeads - first), done = (stage + 1) / codec.stages.length;
      for (const { group, heads } of groups) {
        heads.forEach(({ losses }, h) => {
          const at = { head: group.head + h, stage, stages: codec.stages.length };
          options.onProgress?.({ ...at, distortion: nmse(losses, stage), done: (first + width * done) / kvHeads });
        });
      }
    }
    for (const group of groups) heads.push(...group.heads);
  }
  return {
    stages: codec.stages.map((_, s) => joined(heads.map((head) => head.words[s]!))),
    nmse: codec.stages.map((_, s) => Float64Array.from(heads, ({ losses }) => nmse(losses, s))),
    energy: Float64Array.from(heads, ({ losses }) => losses[0]!),
  };
}

/** What a layer's words miss of `vectors`: of held-out text, for one. */
export async function measureStages(
  gpu: Gpu,
  dims: VectorDims,
  vectors: Vectors,
  codec: CodecShape,
  stages: readonly Uint16Array[],
  options: Pick<TrainOptions, "memory" | "metric"> = {},
): Promise<Distortion> {
  const { kvHeads, headDim } = dims, tokens = tokensOf(vectors, dims);
  const bytes = headBytes(headDim, tokens, codec.stages, false);
  const { size } = headsAtOnce(gpu, kvHeads, bytes, 4 * headDim * tokens, options);
  const out = codec.stages.map(() => new Float64Array(kvHeads)), energy = new Float64Array(kvHeads);
  for (let head = 0; head < kvHeads; head += size) {
    const heads = Math.min(size, kvHeads - head), losses: number[][] = Array.from({ length: heads }, () => []);
    const { metric } = options, own = metric?.subarray(head * headDim ** 2, (head + heads) * headDim ** 2);
    using group = await HeadGroup.create(gpu, dims, vectors, { head, heads, metric });
    const step = async (words: Uint16Array): Promise<void> => {
      group.submit(words, { keep: true });
      for (const [h, { scaledLoss }] of (await group.read()).entries()) losses[h]!.push(scaledLoss);
    };
    for (const [s, stage] of codec.stages.entries()) {
      await group.begin(stage);
      if (s === 0) await step(zeroWords(heads, stage, headDim));
      const rows = stageRows(stage) * headDim, words = stages[s]!.subarray(head * rows, (head + heads) * rows);
      await step(own ? metricWords(words, own, headDim) : words);
      losses.forEach((loss, h) => out[s]![head + h] = nmse(loss, s));
    }
    losses.forEach((loss, h) => energy[head + h] = loss[0]!);
  }
  return { nmse: out, energy };
}

/** Squared error after a stage over squared norm; 0 where there is no norm. */
function nmse(losses: readonly number[], stage: number): number {
  return losses[0]! > 0 ? losses[stage + 1]! / losses[0]! : 0;
}

/**
 * Heads of a group, and groups that take turns: two where the memory holds them, for one group works while the other's M
 * step is solved.
 */
function headsAtOnce(
  gpu: Gpu,
  kvHeads: number,
  bytes: number,
  largest: number,
  { memory = MEMORY }: Pick<TrainOptions, "memory">,
): { size: number; turns: number } {
  const turns = kvHeads > 1 && 2 * bytes <= memory ? 2 : 1;
  const bound = Math.floor(gpu.maxBytes / largest), fits = Math.floor(memory / turns / bytes);
  const size = Math.min(fits, bound, Math.ceil(kvHeads / turns));
  if (size > 0) return { size, turns };
  throw new RangeError(
    `Cannot train a codebook as one head needs ${bytes} bytes of GPU memory: ${memory} are given and a binding holds ` +
      `${gpu.maxBytes}. Train on fewer tokens`,
  );
}

/** A seed for every head. */
function streamOf(seed: number, head: number): number {
  return Math.imul(seed, 0x9e3779b1) + Math.imul(head + 1, 0x85ebca6b) >>> 0;
}

function joined(parts: readonly Uint16Array[]): Uint16Array {
  const out = new Uint16Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (out.set(part, at), at + part.length), 0);
  return out;
}

/**
 * One stage of every group. A read waits for everything submitted, so groups take turns: while the GPU makes one's E step,
 * the other's M step is solved here.
 */
async function trainStage(groups: readonly Trainer[], stage: number, { signal }: TrainOptions): Promise<void> {
  for (const group of groups) await group.begin(stage);
  let solving: Trainer | undefined;
  for (let step = 0; !groups.every((group) => group.isDone); step++) {
    for (const group of groups) {
      signal?.throwIfAborted();
      if (group.isDone) continue;
      if (solving === group) group.solve();
      group.submit(step);
      if (solving !== group) solving?.solve();
      await group.read(step);
      solving = group;
    }
  }
  for (const group of groups) await group.finish();
}

/** Trains the heads of one group. */
class Trainer {
  readonly heads: Head[];
  #stage!: Stage;
  /** What the stage's words are stored as. */
  #levels: number | undefined;
  /** Temperatures of a stage's E steps, 0 for hard ones; as many M steps follow them. */
  #temperatures: readonly number[] = [];
  isDone = false;
  /** The group's metrics, and the ways back from them. */
  readonly #metric: Uint16Array | undefined;
  readonly #inverses: readonly Float64Array[] = [];

  constructor(
    readonly group: HeadGroup,
    readonly codec: CodecShape,
    readonly options: TrainOptions,
    readonly seeds: readonly number[],
  ) {
    this.heads = seeds.map(() => ({
      ...{ words: [], losses: [], bestLoss: 0, stopped: false },
      current: new Float64Array(0),
      best: new Uint16Array(0),
    }));
    if (!options.metric) return;
    const { head, heads } = group, D = codec.headDim;
    this.#metric = options.metric.subarray(head * D ** 2, (head + heads) * D ** 2);
    this.#inverses = seeds.map((_, h) => inverted(headMetric(this.#metric!, h, D), D));
  }

  /** Words are rounded as they are stored; those in a metric's space only for the GPU, and as stored at the stage's end. */
  #rounded(words: Float64Array): Uint16Array {
    return roundWords(words, this.#width, this.#metric ? undefined : this.#levels);
  }

  get #width(): number {
    return this.codec.headDim;
  }

  /** Draws the words that a stage starts from. */
  async begin(index: number): Promise<void> {
    const stage = this.#stage = this.codec.stages[index]!, rows = stageRows(stage);
    this.#levels = levels(this.options.precision ?? "f16", index);
    await this.group.begin(stage);
    if (index === 0) {
      this.group.submit(zeroWords(this.heads.length, stage, this.#width));
      for (const [h, { scaledLoss }] of (await this.group.read()).entries()) this.heads[h]!.losses.push(scaledLoss);
    }
    const isSoft = this.options.assignment === "soft" && stage.kind === "pair";
    const { iterations = ITERATIONS[isSoft ? "soft" : "hard"] } = this.options;
    this.#temperatures = isSoft ? temperatures(index, iterations) : new Array(iterations).fill(0);
    const drawn = await this.group.draw(rows, this.seeds.map((seed) => new Rng(seed + Math.imul(index, 0xc2b2ae35))));
    this.heads.forEach((head, h) => {
      head.current = firstWords(stage, drawn[h]!);
      head.best = new Uint16Array(rows * this.#width); // zeros, the stage that changes nothing
      head.bestLoss = head.losses.at(-1)!;
      head.stopped = false;
    });
    this.isDone = false;
  }

  submit(step: number): void {
    const words = joined(this.heads.map((head) => this.#rounded(head.current)));
    this.group.submit(words, { temperature: this.#temperatures[step] ?? 0 });
  }

  /** Takes the step's losses, and each head's words where they are its best. */
  async read(step: number): Promise<void> {
    const { assignment } = this.options, found = await this.group.read();
    this.heads.forEach((head, h) => {
      const { scaledLoss, tokens } = head.last = found[h]!, gap = (scaledLoss - head.bestLoss) / tokens / this.#width;
      if (head.stopped) return;
      if (scaledLoss < head.bestLoss) {
        head.bestLoss = scaledLoss;
        head.best = this.#rounded(head.current);
      } else if (assignment === "soft" && step > 1 && gap < PUBLISHED_STOP) head.stopped = true;
    });
    this.isDone = step === this.#temperatures.length || this.heads.every((head) => head.stopped);
    this.#step = step;
  }
  #step = 0;

  /** The M step after the last E step. */
  solve(): void {
    if (this.isDone) return;
    const isHard = this.#temperatures[this.#step] === 0, left = this.#temperatures.length - this.#step;
    const factor = isHard && this.#step > 1 && left > SETTLE ? RELAXATION : 1;
    for (const head of this.heads) {
      if (head.stopped) continue;
      const old = head.current, words = solveStage(this.#stage, head.last!, this.#width, old);
      for (let i = 0; i < words.length; i++) words[i] = old[i]! + factor * (words[i]! - old[i]!);
      head.current = words;
    }
  }

  /** Takes each head's best words off its residuals; a metric's as they will be there once they have been stored. */
  async finish(): Promise<void> {
    const D = this.#width, metric = this.#metric;
    this.#inverses.forEach((inverse, h) => {
      const head = this.heads[h]!;
      head.best = roundWords(timesMatrix(fromF16Array(head.best), inverse, D), D, this.#levels);
    });
    const words = joined(this.heads.map((head) => head.best));
    this.group.submit(metric ? metricWords(words, metric, D) : words, { keep: true });
    for (const [h, { scaledLoss }] of (await this.group.read()).entries()) {
      const head = this.heads[h]!;
      head.words.push(head.best);
      head.losses.push(scaledLoss);
    }
  }
}

/** The published schedule of a stage: all words near the mean at first, then from 1e-3 to 1e-5 of the stage's scale. */
function temperatures(stage: number, iterations: number): number[] {
  const scale = 10 ** -Math.ceil(stage / 4);
  const at = (i: number): number => scale * 1e-3 * 10 ** (-2 * i / Math.max(1, iterations - 1));
  return [1, ...Array.from({ length: iterations }, (_, i) => at(i))];
}

/** Words of about the size of `drawn` residuals `[rows][D]`: halves of a pair share a residual's energy. */
function firstWords(stage: Stage, drawn: Float32Array): Float64Array {
  const words = Float64Array.from(drawn);
  if (stage.kind === "sub") return words;
  const half = words.length / 2;
  for (let i = 0; i < words.length; i++) words[i]! *= stage.tied ? Math.SQRT1_2 : 0.5;
  if (stage.tied) {
    for (let i = 0; i < half; i += 2) [words[half + i], words[half + i + 1]] = [-words[i + 1]!, words[i]!];
  }
  return words;
}
