/**
 * Training time, wall clock: one 8B-shaped layer of keys (8 heads of 128, 11 stages, 30 iterations, a million tokens), and
 * keys and values of all of a fable-28m-shaped model (10 stages, 131,072 tokens). Vectors are synthetic: hard training's
 * time does not depend on them. `deno run -A bench/train_codebook_bench.ts [8b] [fable] [soft]`; CI's adapter gets small ones.
 */
import { pairStages } from "../src/core/codec.ts";
import { toF16 } from "../src/core/f16.ts";
import { Rng } from "../src/core/rng.ts";
import type { Vectors } from "../src/codebook/head_group.ts";
import { type TrainOptions, trainStages } from "../src/codebook/train.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import { bench } from "./_harness.ts";

const { gpu, software } = await bench();

/** An exact cache of correlated vectors, in half precision; a few thousand tokens again and again. */
function cache(gpu: Gpu, kvHeads: number, headDim: number, tokens: number, owned: DisposableStack): Vectors {
  const rng = new Rng(1),
    own = Math.min(tokens, 8192),
    part = Math.min(tokens, 2 ** 18),
    halves = new Uint16Array(own * headDim);
  const basis = Float32Array.from({ length: 32 * headDim }, () => rng.normal()), row = new Float32Array(headDim);
  const seeds = Array.from({ length: kvHeads }, () => {
    for (let t = 0; t < own; t++) {
      row.fill(0);
      for (let r = 0; r < 32; r++) {
        const weight = rng.normal() / (1 + r / 4);
        for (let c = 0; c < headDim; c++) row[c]! += weight * basis[r * headDim + c]!;
      }
      for (let c = 0; c < headDim; c++) halves[t * headDim + c] = toF16(row[c]!);
    }
    return gpu.upload("seed", "f16", [own, headDim], halves);
  });
  const parts = Array.from({ length: tokens / part }, () => {
    const tensor = owned.use(gpu.alloc("vectors", "u32", [kvHeads, part, headDim / 2])), commands = gpu.commands();
    seeds.forEach((seed, head) => {
      for (let at = 0; at < part; at += own) {
        commands.copy(seed, tensor, seed.byteLength, 0, 2 * headDim * (head * part + at));
      }
    });
    commands.submit();
    return tensor;
  });
  seeds.forEach((seed) => seed[Symbol.dispose]());
  return { form: "cache", parts };
}

async function run(
  name: string,
  kvHeads: number,
  headDim: number,
  tokens: number,
  stages: number,
  times: number,
  options: TrainOptions,
) {
  using owned = new DisposableStack();
  const vectors = cache(gpu, kvHeads, headDim, tokens, owned);
  await gpu.idle();
  let peak = 0, start = performance.now();
  const onProgress = (): void => void (peak = Math.max(peak, gpu.bytes));
  await trainStages(gpu, { kvHeads, headDim }, vectors, pairStages(headDim, 1, true), { ...options, iterations: 1 }); // compiles
  start = performance.now();
  for (let i = 0; i < times; i++) {
    const codec = pairStages(headDim, stages, i % 2 === 0); // keys tied, values untied
    await trainStages(gpu, { kvHeads, headDim }, vectors, codec, { ...options, onProgress });
  }
  const seconds = (performance.now() - start) / 1e3;
  const record = {
    name,
    adapter: gpu.description,
    kvHeads,
    headDim,
    tokens,
    stages,
    times,
    ...options,
    seconds,
    peakBytes: peak,
  };
  console.log(`${name}: ${seconds.toFixed(1)} s, ${(peak / 2 ** 30).toFixed(2)} GiB at the peak`);
  const path = Deno.env.get("BENCH_JSON");
  if (path) await Deno.writeTextFile(path, JSON.stringify(record) + "\n", { append: true });
}

const wanted = (name: string): boolean => Deno.args.length === 0 ? name !== "soft" : Deno.args.includes(name);
const small = software ? { iterations: 2 } : {};
if (wanted("8b")) {
  await run("8B layer, keys", software ? 2 : 8, 128, software ? 2048 : 2 ** 20, software ? 1 : 11, 1, {
    iterations: 30,
    ...small,
  });
}
if (wanted("fable")) {
  await run(
    "fable-28m, keys and values",
    4,
    64,
    software ? 1024 : 2 ** 17,
    software ? 1 : 10,
    software ? 1 : 16,
    small,
  );
}
if (wanted("soft")) {
  await run("fable-28m layer, keys, soft", 4, 64, software ? 256 : 2 ** 17, software ? 1 : 10, 1, {
    assignment: "soft",
    ...small,
  });
}
