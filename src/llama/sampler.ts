/**
 * How the next token is chosen, on the GPU.
 *
 * @module
 */
import { sampleShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { Sample, type SampleRule } from "../kernels/sample.ts";

/**
 * How tokens are chosen. Applied in Hugging Face's order: repetition penalty, bias, temperature, then topK, topP and
 * minP one after the other. Logits equal to the least one kept are kept too.
 */
export interface SamplingOptions {
  /** Divides the logits; 0, the default, always takes the likeliest token, the one with the lowest id among equals. */
  temperature?: number;
  /** Keeps the likeliest `topK` tokens; 0, the default, keeps all. */
  topK?: number;
  /** Keeps the likeliest tokens that together have this probability; 1, the default, keeps all. */
  topP?: number;
  /** Keeps tokens at least `minP` times as likely as the likeliest; 0, the default, keeps all. */
  minP?: number;
  /** Divides positive and multiplies negative logits of tokens in the prompt or the text so far; 1 by default. */
  repetitionPenalty?: number;
  /** Added to the logits of the token ids that it names; `-Infinity` bans a token. */
  logitBias?: Readonly<Record<number, number>>;
  /** A whole number below 2^32. Equal seeds give equal text on the same device; random by default. */
  seed?: number;
}

/** Chooses tokens from logits by fixed options. Owns its scratch and its memory of tokens seen. */
export class Sampler implements Disposable {
  readonly #owned = new DisposableStack();
  readonly #sample: Sample;
  readonly #rule: SampleRule;
  readonly #scratch: Record<"seen" | "partials" | "sums" | "state" | "record", Tensor>;
  readonly #bias: Tensor | undefined;
  /** The seed in use. */
  readonly seed: number;

  private constructor(readonly gpu: Gpu, readonly vocab: number, sample: Sample, options: SamplingOptions) {
    const { temperature = 0, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1, logitBias = {} } = options;
    const shapes = sampleShapes(vocab), biases = Object.entries(logitBias);
    const alloc = (name: keyof typeof shapes, dtype: "u32" | "f32"): Tensor =>
      this.#owned.use(gpu.alloc(`sampler ${name}`, dtype, shapes[name]));
    this.#sample = sample;
    this.#rule = { temperature, topK, topP, minP, repetitionPenalty };
    this.#scratch = {
      seen: alloc("seen", "u32"),
      partials: alloc("partials", "f32"),
      sums: alloc("sums", "f32"),
      state: alloc("state", "u32"),
      record: alloc("record", "u32"),
    };
    if (biases.length > 0) {
      const dense = new Float32Array(vocab);
      for (const [id, bias] of biases) dense[Number(id)] = bias;
      gpu.write(this.#bias = alloc("bias", "f32"), dense);
    }
    this.seed = options.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!;
  }

  /** Throws `RangeError` for options that {@linkcode Sampler.create} refuses. */
  static async create(gpu: Gpu, vocab: number, options: SamplingOptions = {}): Promise<Sampler> {
    Sampler.check(options, vocab);
    return new Sampler(gpu, vocab, await Sample.create(gpu), options);
  }

  /** Throws `RangeError` unless `options` make sense for a vocabulary of `vocab` tokens. */
  static check(options: SamplingOptions, vocab: number): void {
    const { temperature = 0, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1, logitBias = {}, seed = 0 } = options;
    expect("temperature", temperature, "a finite number >= 0", temperature >= 0 && temperature < Infinity);
    expect("topK", topK, "a whole number >= 0", Number.isInteger(topK) && topK >= 0);
    expect("topP", topP, "above 0 and at most 1", topP > 0 && topP <= 1);
    expect("minP", minP, "from 0 to 1", minP >= 0 && minP <= 1);
    const penalizes = repetitionPenalty > 0 && repetitionPenalty < Infinity;
    expect("repetitionPenalty", repetitionPenalty, "a finite number above 0", penalizes);
    expect("seed", seed, "a whole number below 2^32", Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32);
    for (const [key, bias] of Object.entries(logitBias)) {
      const id = Number(key);
      expect("an id of logitBias", key, `a token id below ${vocab}`, Number.isInteger(id) && id >= 0 && id < vocab);
      expect(`logitBias of token ${key}`, bias, "a finite number or -Infinity", bias < Infinity);
    }
  }

  /** What {@linkcode encode} chose, `u32 [2]`: the token's id, and its log-probability as the bits of an f32. */
  get result(): Tensor {
    return this.#scratch.record;
  }

  /** Forgets every token seen, then takes those of `prompt` as seen. */
  reset(prompt: readonly number[] = []): void {
    const seen = new Uint32Array(this.#scratch.seen.shape[0]!);
    for (const id of prompt) {
      expect(
        "a token of the prompt",
        id,
        `an id below ${this.vocab}`,
        Number.isInteger(id) && id >= 0 && id < this.vocab,
      );
      seen[id >> 5]! |= 1 << (id & 31);
    }
    this.gpu.write(this.#scratch.seen, seen);
  }

  /**
   * Encodes the choice of a token from `logits f32 [1][V]`: its id goes to `tokens[index]`, where the next step may
   * read it, and counts as seen; {@linkcode result} gets its log-probability, that of the penalized and biased logits
   * at temperature 1 over the whole vocabulary. `step` must differ from token to token of a text.
   */
  encode(commands: Commands, logits: Tensor, tokens: Tensor, step: number, index = 0): void {
    const io = { logits, tokens, bias: this.#bias, ...this.#scratch };
    this.#sample.encode(commands, io, this.#rule, { seed: this.seed, step, index });
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}

function expect(name: string, value: unknown, requirement: string, holds: boolean): void {
  if (!holds) throw new RangeError(`Cannot sample as ${name} must be ${requirement}: current value is ${value}`);
}
