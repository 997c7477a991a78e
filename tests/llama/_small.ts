/** Small models with random codebooks, and how they go on. */
import type { Codebook } from "../../src/codebook/file.ts";
import { pairStages, stageRows } from "../../src/core/codec.ts";
import { toF16 } from "../../src/core/f16.ts";
import { Rng } from "../../src/core/rng.ts";
import { type KvOptions, type Llama, load } from "../../src/llama/llama.ts";
import type { Session } from "../../src/llama/session.ts";
import { randomLlama, writeFolder } from "../_llama.ts";

export const SHAPE = { layers: 2, kvHeads: 2, headDim: 32 },
  CONTEXT = 512;
export const SMALL = { hidden: 64, ffn: 96, qHeads: 4, ...SHAPE, context: CONTEXT };

/** A squared error that an eighth of the keys and a third of the values pass. */
const THRESHOLD = 60;

/** A codebook of random words: it codes badly and by the same rules as a good one. */
function randomBook(fingerprint: string, seed: number, shape: typeof SHAPE): Codebook {
  const rng = new Rng(seed), codec = pairStages(SHAPE.headDim, 5, false);
  const words = () =>
    codec.stages.map((stage, s) =>
      Uint16Array.from(
        { length: SHAPE.kvHeads * stageRows(stage) * SHAPE.headDim },
        () => toF16(0.15 * 0.8 ** s * rng.normal()),
      )
    );
  const layers = Array.from({ length: shape.layers }, () => ({ keys: words(), values: words() }));
  const tier = (base: number, stages: number) => ({
    ...{ base, stages, shares: layers.map((_, l) => [0.3, 0.2 + 0.1 * l]) },
    thresholds: layers.map(() => new Array(SHAPE.kvHeads).fill(THRESHOLD)),
  });
  const tiers = { 2: { keys: tier(2, 5), values: tier(1, 4) } };
  return { model: { ...shape, fingerprint }, keys: codec, values: codec, precision: "f16", tiers, layers, record: {} };
}

/** A folder with two models, and a way to load one with a cache of some kind. */
export async function within(
  body: (folder: string, open: Open, model: string) => Promise<void>,
  layers = SHAPE.layers,
): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    for (const seed of [7, 8]) await writeFolder(`${folder}/${seed}`, randomLlama({ ...SMALL, layers }, seed));
    await body(folder, async (kv = {}, { seed = 7, book = 1, maxContext = CONTEXT, device } = {}) => {
      using exact = await load(`${folder}/${seed}`, { maxContext: 8 });
      const codebook = randomBook(exact.fingerprint, book, { ...SHAPE, layers });
      return await load(`${folder}/${seed}`, { kv: { codebook, ...kv }, maxContext, device });
    }, `${folder}/7`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

export type Open = (
  kv?: KvOptions,
  options?: { seed?: number; book?: number; maxContext?: number; device?: GPUDevice },
) => Promise<Llama>;

export const CODES: KvOptions = { bits: { k: 2, v: 1 }, window: 32, sinks: 4 };
export const TIERS: KvOptions = { bits: 2, window: 32, sinks: 4 };
export const IDS = Array.from({ length: 150 }, (_, i) => 2 + (i * i + 3 * i) % 90);

/** Ids and log-probabilities of a continuation: what they attend to shows in them to the last bit. */
export async function go(session: Session, ids: readonly number[], maxTokens = 40): Promise<[number, number][]> {
  const generation = session.generate([...session.tokens, ...ids], { maxTokens, ignoreEos: true, logprobs: true });
  return (await Array.fromAsync(generation)).map(({ id, logprob }) => [id, logprob!]);
}
