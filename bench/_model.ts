/**
 * Whole models for benches: the bundled one, and one of an 8B's shape whose weights never were in a file. They run as
 * `generate` runs them, from any depth of cache.
 */
import { ExactAttention, ExactCache } from "../src/attention/exact_cache.ts";
import type { KvCache } from "../src/attention/kv_cache.ts";
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

/** An 8B's shape with random Q8_0 weights and a cache of random numbers, copied from one chunk on the GPU. */
export async function shaped8B(gpu: Gpu, context: number): Promise<BenchModel> {
  const config = SHAPE_8B, { hidden, ffn, vocab, qHeads, kvHeads, headDim, layers } = config, rng = new Rng(1);
  using building = new DisposableStack();
  const words = Uint32Array.from({ length: 2 ** 20 }, () => rng.u32());
  const chunkOf = (data: Uint32Array | Uint16Array): Tensor =>
    building.use(gpu.upload("chunk", "u32", [data.byteLength / 4], data));
  const bytes = chunkOf(words);
  // Of a size that keeps what goes through the layers about 1: 74 is the deviation of a random int8.
  const scales = chunkOf(
    toF16Array(
      words.subarray(0, 2 ** 18).map((word) => word & 1023).values().map((n) =>
        (0.5 + n / 1024) / 74 / Math.sqrt(hidden)
      ).toArray(),
    ),
  );
  const normals = chunkOf(toF16Array(Float32Array.from({ length: 2 ** 18 }, () => rng.normal())));
  const matrix = (rows: number, cols: number, paired = false): WeightMatrix => {
    const made = building.use(WeightMatrix.alloc(gpu, "weights", { type: "Q8_0", rows, cols }, { paired }));
    for (const slice of made.slices) {
      fill(gpu, slice.data, bytes);
      fill(gpu, slice.scales, scales);
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
  const cache = building.use(filled(gpu, normals, () => new ExactCache(attention, layers, context)));
  await gpu.settle();
  await gpu.idle();
  const tokenizer = { stripsSpace: false, eos: [], bytes: () => new Uint8Array(0) } as object as Tokenizer;
  const engine: Engine = { gpu, config, tokenizer, decoder, disposed: false, encode: () => [], f16Bytes: () => 0 };
  const owned = building.move();
  return { name: "8B-shaped Q8_0", engine, cache, [Symbol.dispose]: () => owned.dispose() };
}

function fill(gpu: Gpu, tensor: Tensor, chunk: Tensor): void {
  const commands = gpu.commands("fill");
  for (let at = 0; at < tensor.byteLength; at += chunk.byteLength) {
    commands.copy(chunk, tensor, Math.min(chunk.byteLength, Math.ceil((tensor.byteLength - at) / 4) * 4), 0, at);
  }
  commands.submit();
}

/** What `make` makes, with every tensor that it allocates filled. */
function filled<T>(gpu: Gpu, chunk: Tensor, make: () => T): T {
  const { alloc } = gpu, made: Tensor[] = [];
  gpu.alloc = (...of) => {
    made.push(alloc.apply(gpu, of));
    return made.at(-1)!;
  };
  try {
    return make();
  } finally {
    gpu.alloc = alloc;
    for (const tensor of made) fill(gpu, tensor, chunk);
  }
}

/** Generates `maxTokens` after a prompt of `prompt` tokens on top of `depth` that the cache is taken to hold. */
export async function generateAt(
  { engine, cache }: BenchModel,
  depth: number,
  prompt: number,
  maxTokens: number,
): Promise<Usage> {
  const ids = Array.from({ length: depth + prompt }, (_, i) => 2 + i % 1000);
  cache.restore({ ...cache.state(), length: depth });
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
