/**
 * Tiers: tokens that a codebook's first stages miss by too much are coded in more of its stages, and more of them where the
 * model feels it more.
 *
 * @module
 */
import { Encoder } from "../codebook/encode.ts";
import { type Codebook, expectFits, isAdditive, type Tier, type Tiers, truncate } from "../codebook/file.ts";
import { type CodecShape, fieldBits, moreBits, pairStages, type Stage } from "../core/codec.ts";
import { fromF16Array } from "../core/f16.ts";
import { BLOCK, INDEX_WORDS, moreRoom } from "../core/pack.ts";
import { additiveSide } from "../eval/commvq.ts";
import { type CacheCodec, Forward } from "../eval/forward.ts";
import { Scorer } from "../eval/scorer.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { inside, type Llama } from "../llama/llama.ts";
import { Calibration, calibrationWindows } from "./calibrate.ts";

/** Stages of all tokens, and of those that these miss by too much. */
export type TierStages = Pick<Tier, "base" | "stages">;

/** Tiers of both sides, by the bits an element that their codes take as a cache of 4,096 tokens allocates them. */
export type TierPlans = Readonly<Partial<Record<1 | 2, { readonly keys: TierStages; readonly values: TierStages }>>>;

/** Options of {@linkcode calibrateTiers}. */
export interface CalibrateTiersOptions {
  /** Texts like those that the codebook was trained on. */
  readonly texts: Iterable<string>;
  /** Tokens of them. Default 16,384. */
  readonly tokens?: number;
  /** What to have thresholds for. */
  readonly tiers: TierPlans;
}

/** How {@linkcode tierThresholds} goes about it. */
interface ThresholdOptions {
  readonly tokens?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number) => void;
}

/** Tokens that are encoded and looked at together, and those of a calibration that are looked at by default. */
const CHUNK = 2048, TOKENS = 16_384;
/** Texts that prices are read off, spread over the calibration, and passes over one that all prices may take. */
const TEXTS = 6, PASSES = 1024;
/** What a query sees exactly while they are. */
const NEAR = { window: 64, sinks: 4 };
const SIDES = ["keys", "values"] as const;
/** Tokens of the cache that bits are counted in: shorter ones take a little more. */
const CAPACITY = 4096;
/** Above every error; infinity has no place in a file. */
const NEVER = 1e30;

type Side = typeof SIDES[number];

/**
 * The codec to train where nothing else is known, as the bundled one scaled to a head: keys in pairs, values in pairs and
 * sub-vectors of eight (where these fill the head), and the tiers of both at 1 and 2 bits.
 */
export function defaultTiers(headDim: number): {
  readonly stages: Readonly<Record<"keys" | "values", readonly Stage[]>>;
  readonly tiers: Required<TierPlans>;
} {
  const scaled = (count: number): number => Math.max(1, Math.round(count * headDim / 64)), two = scaled(2);
  const pairs = (count: number): readonly Stage[] => pairStages(headDim, scaled(count), false).stages;
  let width = 8;
  while (headDim / 2 % width !== 0) width += 4;
  const sub = { kind: "sub", pairs: width } as const;
  return {
    stages: { keys: pairs(14), values: [...pairs(2), sub, sub, sub, ...pairs(2)] },
    tiers: {
      1: { keys: { base: two, stages: scaled(10) }, values: { base: two, stages: two + 3 } },
      2: { keys: { base: scaled(6), stages: scaled(14) }, values: { base: two + 1, stages: 2 * two + 3 } },
    },
  };
}

/** What one side takes at so many bits. */
interface Wanted extends TierStages {
  readonly bits: 1 | 2;
  readonly side: Side;
  /** Bits an element of the first stages, the index and the scales. */
  readonly ofAll: number;
  /** Bits an element of a token's further codes and gain. */
  readonly further: number;
}

/** What its first stages leave, and what that costs. */
interface Plan extends Wanted {
  /** Squared errors of the first stages in the metric, largest first, `[layers][K]`. */
  readonly errors: readonly (readonly Float64Array[])[];
  /** Divergence, in nats a token, over the mean error that makes it, `[layers][K]`. */
  readonly prices: readonly (readonly number[])[];
}

/**
 * A codebook with thresholds for tiers, so that its codes take the bits that are asked for in a cache of 4,096 tokens. Where
 * further codes go is decided by what they are worth: the divergence of the model's predictions when one side of one head
 * is coded in its first stages alone, over the error that these leave, is the price of an error there; a token has further
 * codes if price times error a bit passes what is the same for all layers, heads and sides. Thresholds do not depend on the
 * text that is coded later, so the choice is causal, and text unlike the calibration gets more bits by itself, as far as
 * there is room. Throws `RangeError` for stages that there are not and where the first stages alone take more bits.
 */
export async function calibrateTiers(
  llama: Llama,
  codebook: Codebook,
  { texts, tokens = TOKENS, tiers }: CalibrateTiersOptions,
): Promise<Codebook> {
  const { gpu, decoder, attention } = inside(llama);
  const windows = calibrationWindows(texts, llama.tokenizer, tokens, llama.maxContext);
  using calibration = new Calibration(gpu, decoder, attention, windows);
  return await tierThresholds(llama, codebook, calibration, tiers, { tokens });
}

/** {@linkcode calibrateTiers} on the first `tokens` of a calibration. */
export async function tierThresholds(
  llama: Llama,
  codebook: Codebook,
  calibration: Calibration,
  tiers: TierPlans,
  options: ThresholdOptions = {},
): Promise<Codebook> {
  const { layers, kvHeads, headDim } = inside(llama).config;
  expectFits("the codebook", codebook, { layers, kvHeads, headDim, fingerprint: llama.fingerprint });
  const wanted = expectTiers(codebook, kvHeads, tiers);
  const texts = Math.min(TEXTS, Math.max(1, Math.floor(PASSES / (wanted.length * layers * kvHeads))));
  let done = 0;
  const step = () => options.onProgress?.(++done, wanted.length * (layers * kvHeads + 1));
  const plans: Plan[] = [];
  for (const plan of wanted) {
    const errors = await errorsOf(llama, codebook, calibration, plan, options);
    step();
    const prices = await pricesOf(llama, codebook, calibration, { ...plan, errors, texts }, options, step);
    plans.push({ ...plan, errors, prices });
  }
  const out: Partial<Record<1 | 2, Tiers>> = {};
  for (const bits of [1, 2] as const) {
    const [keys, values] = SIDES.map((side) => plans.find((plan) => plan.bits === bits && plan.side === side));
    if (!keys || !values) continue;
    const rate = rateFor([keys, values], bits);
    out[bits] = { keys: tierOf(keys, rate), values: tierOf(values, rate) };
  }
  return { ...codebook, tiers: out };
}

/**
 * What tiers of codecs take. Throws, before anything is trained, `TypeError` for values of the published encoder and
 * `RangeError` for stages that there are not and for first stages of more bits than are asked for.
 */
export function expectTiers({ keys, values }: Pick<Codebook, Side>, kvHeads: number, tiers: TierPlans): Wanted[] {
  if (!isAdditive(values)) throw new TypeError("Cannot make tiers of the published value encoder as it has no stages");
  const codecs = { keys, values }, { headDim } = keys;
  return ([1, 2] as const).flatMap((bits) => {
    const plan = tiers[bits];
    if (!plan) return [];
    const both = SIDES.map((side): Wanted => {
      const { base, stages } = plan[side], all = codecs[side].stages;
      if (!(base > 0 && base < stages && stages <= all.length)) {
        throw new RangeError(`Cannot make tiers of ${base} and ${stages} stages as there are ${all.length}`);
      }
      const first = fieldBits({ headDim, stages: all.slice(0, base) });
      const further = moreBits({ headDim, stages: all.slice(0, stages), base }) / headDim;
      const ofAll = (first + INDEX_WORDS * 32 / BLOCK + 16 / kvHeads) / headDim;
      return { bits, side, base, stages, ofAll, further };
    });
    const least = both.reduce((sum, { ofAll, further }) =>
      sum + ofAll + further * moreRoom(CAPACITY, 0) / CAPACITY, 0) / 2;
    if (least <= bits) return both;
    throw new RangeError(
      `Cannot make tiers of ${bits} bits as the stages of all tokens take ${least.toFixed(2)}: choose fewer`,
    );
  });
}

/** Squared errors of a side's first stages in its metric on the first tokens of a calibration, `[layers][K]`. */
async function errorsOf(
  llama: Llama,
  codebook: Codebook,
  calibration: Calibration,
  { side, base }: { side: Side; base: number },
  { tokens = TOKENS, signal }: ThresholdOptions,
): Promise<Float64Array[][]> {
  const { gpu, config } = inside(llama), { layers, kvHeads, headDim } = config, { beam } = codebook;
  const codec = { headDim, stages: (codebook[side] as CodecShape).stages.slice(0, base) }, out: Float64Array[][] = [];
  using encoder = await Encoder.create(gpu, config, codec, { form: "rows", beam, chunk: CHUNK });
  const { codes, scales } = encoder.allocCodes(CHUNK);
  using _codes = codes, _scales = scales;
  for (let layer = 0; layer < layers; layer++) {
    signal?.throwIfAborted();
    const { parts, offset } = (await calibration.vectors(layer))[side], book = codebook.layers[layer]!;
    using table = encoder.table((book[side] as readonly Uint16Array[]).slice(0, base), book.metrics?.[side]);
    const errors: number[][] = Array.from({ length: kvHeads }, () => []);
    let left = tokens;
    for (const source of parts as readonly Tensor[]) {
      for (let first = 0; first < source.shape[0]! && left > 0; first += CHUNK) {
        const span = { tokens: Math.min(CHUNK, source.shape[0]! - first, left), first, offset },
          commands = gpu.commands("tiers");
        encoder.encode(commands, table, { source, codes, scales }, span);
        commands.submit();
        left -= span.tokens;
        const missed = await gpu.readF32(encoder.residual),
          sizes = fromF16Array(new Uint16Array(await gpu.read(scales)));
        for (let t = 0; t < span.tokens; t++) {
          errors.forEach((own, head) => {
            const at = (head * CHUNK + (t & ~31)) * headDim + (t & 31);
            let sum = 0;
            for (let c = 0; c < headDim; c++) sum += missed[at + c * BLOCK]! ** 2;
            own.push(sum * sizes[t]! ** 2);
          });
        }
      }
    }
    out.push(errors.map((own) => Float64Array.from(own).sort().reverse()));
  }
  return out;
}

/** What errors of a side's first stages cost, `[layers][K]`: divergence over mean error, one head coded at a time. */
async function pricesOf(
  llama: Llama,
  codebook: Codebook,
  { windows }: Calibration,
  { side, base, errors, texts: most }: Pick<Plan, "base" | "errors"> & { side: Side; texts: number },
  { signal }: ThresholdOptions,
  step: () => void,
): Promise<number[][]> {
  const engine = inside(llama),
    { gpu, config: { layers, kvHeads, headDim } } = engine,
    count = Math.min(most, windows.length);
  const texts = Array.from({ length: count }, (_, i) => windows[Math.floor(i * windows.length / count)]!);
  using forward = await Forward.create(engine, Math.max(...texts.map(({ length }) => length)), NEAR);
  using scorer = await Scorer.create(forward);
  using owned = new DisposableStack();
  using exact = forward.allocRows(), coded = forward.allocRows();
  const first = truncate(codebook, { keys: side === "keys" ? base : 1, values: side === "values" ? base : 1 });
  const codec = await additiveSide(forward, side, first, undefined, owned);
  const sums = Array.from({ length: layers }, () => new Float64Array(kvHeads)),
    tokens = Math.max(1, texts.reduce((sum, { length }) => sum + length - 1, 0));
  for (const [i, ids] of texts.entries()) {
    const targets = ids.slice(1);
    forward.begin(ids);
    await forward.run(exact, { far: "exact", signal });
    scorer.begin(exact);
    for (let at = 0; at < layers * kvHeads; at++) {
      const only = Math.floor(at / kvHeads), head = at % kvHeads, bytes = 2 * ids.length * headDim;
      const far: CacheCodec = {
        async quantize(layer, pair, left) {
          if (layer === only) await codec.quantize(layer, pair[side], left[side]);
          const commands = gpu.commands("as they are"); // all but the head's own
          for (const each of SIDES) {
            for (let k = 0; k < kvHeads; k++) {
              if (layer === only && each === side && k === head) continue;
              commands.copy(pair[each], left[each], bytes, k * bytes, k * bytes);
            }
          }
          commands.submit();
        },
      };
      await forward.run(coded, { far, signal });
      const { kl } = await scorer.judge(coded, targets, { compare: true });
      sums[only]![head]! += kl.reduce((sum, x) => sum + Math.max(0, x), 0);
      if (i === texts.length - 1) step();
    }
  }
  return sums.map((heads, l) => Array.from(heads, (sum, h) => sum / tokens / mean(errors[l]![h]!)));
}

/** A mean; 1 of zeros, which then cost nothing. */
function mean(numbers: Float64Array): number {
  return numbers.reduce((a, b) => a + b, 0) / numbers.length || 1;
}

/** Errors of a head above this have further codes at a price of so much a bit. */
function thresholdOf({ prices, further }: Plan, layer: number, head: number, rate: number): number {
  return Math.min(NEVER, rate * further / prices[layer]![head]!);
}

/** Of errors, largest first, the share above a threshold. */
function shareAbove(errors: Float64Array, threshold: number): number {
  let low = 0, high = errors.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (errors[middle]! > threshold) low = middle + 1;
    else high = middle;
  }
  return low / errors.length;
}

/** Bits an element that plans take at a rate. */
function bitsAt(plans: readonly Plan[], rate: number): number {
  const of = (plan: Plan): number => {
    const rooms = plan.errors.flatMap((heads, layer) =>
      heads.map((own, head) => moreRoom(CAPACITY, shareAbove(own, thresholdOf(plan, layer, head, rate))) / CAPACITY)
    );
    return plan.ofAll + plan.further * rooms.reduce((a, b) => a + b, 0) / rooms.length;
  };
  return plans.reduce((sum, plan) => sum + of(plan), 0) / plans.length;
}

/** The lowest price a bit at which plans take no more than `bits`. */
function rateFor(plans: readonly Plan[], bits: number): number {
  let low = -60, high = 60; // powers of two
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (bitsAt(plans, 2 ** middle) > bits) low = middle;
    else high = middle;
  }
  return 2 ** high;
}

function tierOf(plan: Plan, rate: number): Tier {
  const { base, stages, errors } = plan;
  const thresholds = errors.map((heads, layer) => heads.map((_, head) => thresholdOf(plan, layer, head, rate)));
  const shares = errors.map((heads, l) => heads.map((own, h) => shareAbove(own, thresholds[l]![h]!)));
  return { base, stages, shares, thresholds };
}
