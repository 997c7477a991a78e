/**
 * Whole models for benches: the bundled one, and one of an 8B's shape whose weights never were in a file. They run as
 * `generate` runs them, from any depth of cache.
 */
import { ExactAttention, ExactCache } from "../src/attention/exact_cache.ts";
import { CodeAttention, type Side } from "../src/attention/code_attention.ts";
import { CodeCache } from "../src/attention/code_cache.ts";
import type { CacheState, KvCache } from "../src/attention/kv_cache.ts";
import { Encoder } from "../src/codebook/encode.ts";
import { type CodecShape, stageRows } from "../src/core/codec.ts";
import { BLOCK } from "../src/core/pack.ts";
import type { LlamaConfig } from "../src/core/model.ts";
import { Rng } from "../src/core/rng.ts";
import { toF16Array } from "../src/core/f16.ts";
import { ropeFrequencies } from "../src/core/rope.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import type { Tensor } from "../src/gpu/tensor.ts";
import { WeightMatrix } from "../src/kernels/weights.ts";
import { Decoder } from "../src/llama/decoder.ts";
import type { Usage } from "../src/llama/generation.ts";
import type { Engine } from "../src/llama/llama.ts";
import { Session } from "../src/llama/session.ts";
import type { Weights } from "../src/llama/weights.ts";
import type { Tokenizer } from "../src/text/tokenizer.ts";
import { openEngine } from "../tests/_llama.ts";
import { bench } from "./_harness.ts";

/** A model that generates from any depth. */
export interface BenchModel extends Disposable {
  readonly name: string;
  readonly engine: Engine;
  readonly cache: KvCache;
}

/** The bundled model. */
export async function bundled(gpu: Gpu, context: number): Promise<BenchModel> {
  const url = new URL("../models/fable-28m/fable-28m.Q8_0.gguf", import.meta.url);
  const model = await openEngine(gpu, url, context), { engine } = model;
  return { name: "fable-28m Q8_0", engine, cache: model.cache(), [Symbol.dispose]: () => model[Symbol.dispose]() };
}

const SHAPE_8B: LlamaConfig = {
  vocab: 128_256,
  hidden: 4096,
  layers: 32,
  qHeads: 32,
  kvHeads: 8,
  headDim: 128,
  ffn: 14_336,
  context: 131_072,
  normEps: 1e-5,
  ropeTheta: 500_000,
  ropeScaling: null,
  tiedEmbeddings: false,
  bos: null,
  eos: [],
  interleavedRope: false,
};

/** Deviations of weights of the types that are made up, before their scales. */
const DEVIATION = { F16: 1, Q8_0: 74, Q4_0: 4.6 } as const;

/** What {@linkcode shaped8B} makes. */
export interface Shaped {
  readonly type?: keyof typeof DEVIATION;
  /** Keeps the cache in codes of this codec, keys and values alike; exact by default. */
  readonly codec?: CodecShape;
  /** Its shape, where not an 8B's: for a machine without a GPU. */
  readonly shape?: Partial<LlamaConfig>;
}

/** An 8B's shape with random weights and a cache of random numbers, copied from one chunk on the GPU. */
export async function shaped8B(gpu: Gpu, context: number, of: Shaped = {}): Promise<BenchModel> {
  const { type = "Q8_0", codec } = of, config = { ...SHAPE_8B, ...of.shape }, rng = new Rng(1);
  const { hidden, ffn, vocab, qHeads, kvHeads, headDim, layers } = config;
  using building = new DisposableStack();
  const words = Uint32Array.from({ length: 2 ** 20 }, () => rng.u32());
  const chunkOf = (data: Uint32Array | Uint16Array): Tensor =>
    building.use(gpu.upload("chunk", "u32", [data.byteLength / 4], data));
  const bytes = chunkOf(words);
  // Of a size that keeps what goes through the layers about 1.
  const size = 1 / DEVIATION[type] / Math.sqrt(hidden);
  const scales = chunkOf(
    toF16Array(Float32Array.from(words.subarray(0, 2 ** 18), (w) => (0.5 + (w & 1023) / 1024) * size)),
  );
  const normals = chunkOf(toF16Array(Float32Array.from({ length: 2 ** 18 }, () => rng.normal())));
  const small = chunkOf(toF16Array(Float32Array.from({ length: 2 ** 18 }, () => rng.normal() * size)));
  const matrix = (rows: number, cols: number, paired = false): WeightMatrix => {
    const made = building.use(WeightMatrix.alloc(gpu, "weights", { type, rows, cols }, { paired }));
    for (const slice of made.slices) {
      fill(gpu, slice.data as Tensor, type === "F16" ? small : bytes);
      if (type !== "F16") fill(gpu, slice.scales as Tensor, scales);
    }
    return made;
  };
  const gain = building.use(gpu.upload("gain", "f32", [hidden], new Float32Array(hidden).fill(1)));
  const embed = matrix(vocab, hidden);
  const weights: Weights = {
    embed,
    layers: Array.from({ length: layers }, () => ({
      attnNorm: gain,
      qkv: [{ column: 0, matrix: matrix((qHeads + 2 * kvHeads) * headDim, hidden) }],
      o: matrix(hidden, qHeads * headDim),
      ffnNorm: gain,
      gateUp: [{ column: 0, matrix: matrix(2 * ffn, hidden, true) }],
      down: matrix(hidden, ffn),
    })),
    norm: gain,
    output: matrix(vocab, hidden),
    frequencies: ropeFrequencies(config),
    [Symbol.dispose]: () => {},
  };
  const decoder = building.use(await Decoder.create(gpu, config, weights, context));
  const attention = building.use(
    await ExactAttention.create(gpu, config, weights.frequencies, context, decoder.chunk),
  );
  const cache = codec
    ? building.use(await codeCache(building, attention, config, codec, context))
    : building.use(filled(gpu, () => normals, () => new ExactCache(attention, layers, context)));
  await gpu.settle();
  await gpu.idle();
  const tokenizer = { stripsSpace: false, eos: [], bytes: () => new Uint8Array(0) } as object as Tokenizer;
  const engine: Engine = {
    gpu,
    config,
    tokenizer,
    decoder,
    kind: { model: "", bits: "", codebook: "", window: "", sinks: "" },
    disposed: false,
    encode: () => [],
    f16Bytes: () => 0,
  };
  const owned = building.move(), name = `8B-shaped ${type}${codec ? ", cache in codes" : ""}`;
  return { name, engine, cache, [Symbol.dispose]: () => owned.dispose() };
}

/** A cache of random codes of random words. */
async function codeCache(
  owned: DisposableStack,
  exact: ExactAttention,
  { layers, kvHeads, headDim }: LlamaConfig,
  codec: CodecShape,
  context: number,
): Promise<CodeCache> {
  const { gpu } = exact, rng = new Rng(2), words = Uint32Array.from({ length: 2 ** 18 }, () => rng.u32());
  using random = gpu.upload("random", "u32", [words.length], words);
  using sizes = gpu.upload("sizes", "f16", [2 ** 16], toF16Array(new Float32Array(2 ** 16).fill(1)));
  const halves = codec.stages.map((stage) =>
    toF16Array(Float32Array.from({ length: kvHeads * stageRows(stage) * headDim }, () => 0.3 * rng.normal()))
  );
  const side = async (form: "cache" | "rotated cache"): Promise<Side> => {
    const encoder = owned.use(await Encoder.create(gpu, { kvHeads, headDim }, codec, { form }));
    return { encoder, layers: Array.from({ length: layers }, () => owned.use(encoder.table(halves))) };
  };
  const kept = { window: 64, sinks: 4 };
  const attention = owned.use(
    await CodeAttention.create(exact, await side("rotated cache"), await side("cache"), context, kept),
  );
  const chunk = (dtype: string): Tensor => dtype === "f16" ? sizes : random;
  const cache = filled(gpu, chunk, () => new CodeCache(attention, layers, context));
  await gpu.settle();
  return cache;
}

function fill(gpu: Gpu, tensor: Tensor, chunk: Tensor): void {
  const commands = gpu.commands("fill");
  for (let at = 0; at < tensor.byteLength; at += chunk.byteLength) {
    commands.copy(chunk, tensor, Math.min(chunk.byteLength, Math.ceil((tensor.byteLength - at) / 4) * 4), 0, at);
  }
  commands.submit();
}

/** What `make` makes, with every tensor that it allocates filled with the chunk of its type. */
function filled<T>(gpu: Gpu, chunk: (dtype: string) => Tensor, make: () => T): T {
  const { alloc } = gpu, made: Tensor[] = [];
  gpu.alloc = (...of) => {
    made.push(alloc.apply(gpu, of));
    return made.at(-1)!;
  };
  try {
    return make();
  } finally {
    gpu.alloc = alloc;
    for (const tensor of made) fill(gpu, tensor, chunk(tensor.dtype));
  }
}

/** Has a cache hold `depth` tokens, of whatever is in its memory. */
export function deepen(cache: KvCache, depth: number): void {
  if (!(cache instanceof CodeCache)) return cache.restore({ ...cache.state(), length: depth });
  const { kept: { sinks, window } } = cache.attention;
  const tokens = Math.max(0, Math.floor((depth - sinks - window) / BLOCK)) * BLOCK;
  cache.restore(
    {
      length: depth,
      runs: tokens > 0 ? [{ block: 0, tokens, position: sinks }] : [],
      origin: 0,
    } as object as CacheState,
  );
}

/** Generates `maxTokens` after a prompt of `prompt` tokens on top of `depth` that the cache is taken to hold. */
export async function generateAt(
  { engine, cache }: BenchModel,
  depth: number,
  prompt: number,
  maxTokens: number,
): Promise<Usage> {
  const ids = Array.from({ length: depth + prompt }, (_, i) => 2 + i % 1000);
  deepen(cache, depth);
  const session = new Session({ ...engine, encode: () => ids }, cache, ids.slice(0, depth));
  const { usage } = await session.generate("", { maxTokens, ignoreEos: true }).done;
  if (usage.generatedTokens !== maxTokens || usage.reusedTokens !== depth) {
    throw new Error(`Generated ${usage.generatedTokens} tokens after reusing ${usage.reusedTokens}`);
  }
  return usage;
}

/** Bytes of the matrices that one token goes through, and numbers in them. */
export function matrixTraffic({ engine: { decoder: { weights } } }: BenchModel): { bytes: number; numbers: number } {
  const matrices = weights.layers.flatMap(({ qkv, o, gateUp, down }) => [
    ...[...qkv, ...gateUp].map(({ matrix }) => matrix),
    o,
    down,
  ]);
  matrices.push(weights.output);
  return {
    bytes: matrices.reduce((sum, matrix) => sum + matrix.bytes, 0),
    numbers: matrices.reduce((sum, { rows, cols }) => sum + rows * cols, 0),
  };
}

/** The middle one of `runs` rates, after a run to warm up. */
export async function medianRate(runs: number, rate: () => Promise<number>): Promise<number> {
  await (await bench()).ready();
  await rate();
  const rates: number[] = [];
  for (let i = 0; i < runs; i++) rates.push(await rate());
  return rates.toSorted((a, b) => a - b)[runs >> 1]!;
}

/** Prints a row as the kernels' benches do, by the token. */
export async function printRate(
  name: string,
  tokensPerSecond: number,
  { step, bytes, flops }: { step: number; bytes: number; flops: number },
): Promise<void> {
  const { gpu, copyGBps } = await bench(), seconds = step / tokensPerSecond, GBps = bytes / seconds / 1e9;
  console.log(
    `${name.padEnd(52)} ${tokensPerSecond.toFixed(1).padStart(10)} tokens/s ${
      (1e3 * seconds).toFixed(2).padStart(9)
    } ms ` +
      `${GBps.toFixed(1).padStart(8)} GB/s ${(100 * GBps / copyGBps).toFixed(0).padStart(4)} % of copy ` +
      `${(flops / seconds / 1e12).toFixed(2).padStart(7)} TFLOP/s`,
  );
  const row = { name, adapter: gpu.description, copyGBps, tokensPerSecond, seconds, bytes, flops, GBps };
  const path = Deno.env.get("BENCH_JSON");
  if (path) await Deno.writeTextFile(path, JSON.stringify(row) + "\n", { append: true });
}
