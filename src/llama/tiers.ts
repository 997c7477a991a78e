/**
 * Tiers: tokens that a codebook's first stages miss by more than a threshold are coded in more of its stages.
 *
 * @module
 */
import { Encoder } from "../codebook/encode.ts";
import { type Codebook, expectFits, isAdditive, type Tier, type Tiers } from "../codebook/file.ts";
import type { CodecShape } from "../core/codec.ts";
import { fromF16Array } from "../core/f16.ts";
import { BLOCK } from "../core/pack.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { Calibration, calibrationWindows } from "./calibrate.ts";
import { inside, type Llama } from "./llama.ts";

/** Stages of all tokens, of the worst, and the share of calibration's tokens that these are. */
export interface TierShare extends Omit<Tier, "thresholds"> {
  /** Above 0 and below 1. */
  readonly share: number;
}

/** Tiers of both sides, by the bits that they stand for. */
export type TierShares = Readonly<Partial<Record<1 | 2, { readonly keys: TierShare; readonly values: TierShare }>>>;

/** Options of {@linkcode calibrateTiers}. */
export interface CalibrateTiersOptions {
  /** Texts like those that the codebook was trained on. */
  readonly texts: Iterable<string>;
  /** Tokens of them. Default 16,384. */
  readonly tokens?: number;
  /** What to have thresholds for. */
  readonly tiers: TierShares;
}

/** Tokens that are encoded and looked at together, and those of a calibration that are looked at by default. */
const CHUNK = 2048, TOKENS = 16_384;

/**
 * A codebook with thresholds for tiers: of each layer, side and head, what the errors of `share` of the calibration's
 * tokens pass, in the side's metric. They do not depend on the text that is coded later, so the choice is causal, and text
 * unlike the calibration gets more bits by itself.
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
  tiers: TierShares,
  { tokens = TOKENS, signal }: { tokens?: number; signal?: AbortSignal } = {},
): Promise<Codebook> {
  const { gpu, config } = inside(llama), { layers, kvHeads, headDim } = config, { keys, values } = codebook;
  expectFits("the codebook", codebook, { layers, kvHeads, headDim, fingerprint: llama.fingerprint });
  if (!isAdditive(values)) throw new TypeError("Cannot make tiers of the published value encoder as it has no stages");
  using owned = new DisposableStack();
  const out: Partial<Record<1 | 2, Tiers>> = {};
  const jobs: { side: "keys" | "values"; encoder: Encoder; share: number; thresholds: number[][] }[] = [];
  for (const bits of [1, 2] as const) {
    const wanted = tiers[bits];
    if (!wanted) continue;
    const tier = async (side: "keys" | "values", codec: CodecShape): Promise<Tier> => {
      const { base, stages, share } = wanted[side], thresholds: number[][] = [];
      if (!(base > 0 && base < stages && stages <= codec.stages.length && share > 0 && share < 1)) {
        throw new RangeError(
          `Cannot make tiers of ${base} and ${stages} stages for a share of ${share} as there are ${codec.stages.length}`,
        );
      }
      const cut = { headDim, stages: codec.stages.slice(0, base) }, { beam } = codebook;
      const encoder = owned.use(await Encoder.create(gpu, config, cut, { form: "rows", beam, chunk: CHUNK }));
      jobs.push({ side, encoder, share, thresholds });
      return { base, stages, share, thresholds };
    };
    out[bits] = { keys: await tier("keys", keys), values: await tier("values", values) };
  }
  for (let layer = 0; layer < layers; layer++) {
    signal?.throwIfAborted();
    const vectors = await calibration.vectors(layer), book = codebook.layers[layer]!;
    for (const { side, encoder, share, thresholds } of jobs) {
      const { parts, offset } = vectors[side], stages = book[side] as readonly Uint16Array[];
      using table = encoder.table(stages.slice(0, encoder.codec.stages.length), book.metrics?.[side]);
      const { codes, scales } = encoder.allocCodes(CHUNK),
        errors: number[][] = Array.from({ length: kvHeads }, () => []);
      using _codes = codes, _scales = scales;
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
      thresholds.push(errors.map((own) => own.sort((a, b) => b - a)[Math.floor(share * own.length)]!));
    }
  }
  return { ...codebook, tiers: out };
}
