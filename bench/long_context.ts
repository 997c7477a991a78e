/**
 * A context of 131,072 tokens at 1 bit in an 8B's shape, weights made up: bytes of the cache a token, GPU memory at the
 * peak as `nvidia-smi` shows it, prefill included, and tokens a second.
 *
 *     deno run -A bench/long_context.ts [F16|Q8_0|Q4_0] [--layers N] [--prompt N]
 *
 * All weights and the whole cache are allocated. `--layers N` reads the prompt through the first N layers only, since the
 * peak is theirs; without it the prompt goes to the end. `--layers 0` decodes only.
 */
import { parseArgs } from "@std/cli";
import type { CodecShape } from "../src/core/codec.ts";
import { bench } from "./_harness.ts";
import { driverMB } from "./_driver.ts";
import { deepen, generateAt, shaped8B } from "./_model.ts";

const args = parseArgs(Deno.args, { string: ["layers", "prompt"] }),
  type = (args._[0] ?? "Q8_0") as "F16" | "Q8_0" | "Q4_0";
const { gpu, ready, software } = await bench();
const context = software ? 1024 : 131_072, extra = 64;
const shape = software ? { hidden: 256, ffn: 512, vocab: 1024, qHeads: 4, kvHeads: 1, layers: 2 } : {};
/** 124 bits a vector of 128: one stage of pairs, and three of sub-vectors. */
const codec: CodecShape = {
  headDim: 128,
  stages: [{ kind: "pair", tied: false }, ...[8, 16, 32].map((pairs) => ({ kind: "sub", pairs }) as const)],
};
const before = driverMB();
using model = await shaped8B(gpu, context + extra, { type, codec, shape });
const { cache, engine: { decoder, config } } = model,
  GiB = (bytes: number): string => (bytes / 2 ** 30).toFixed(2) + " GiB";
console.log(
  `${model.name}: cache ${GiB(cache.bytes)}, ${(cache.bytes / (context + extra) / 1024).toFixed(2)} KiB a token`,
);

let peak = 0, asked = 0;
const look = (): void => {
  const now = performance.now();
  if (now - asked < 250) return;
  peak = Math.max(peak, driverMB() ?? 0);
  asked = performance.now();
};
look();
const layers = Number(args.layers ?? config.layers), prompt = Number(args.prompt ?? context);
if (layers > 0) {
  const ids = Array.from({ length: prompt }, (_, i) => 2 + i % 500), start = performance.now();
  deepen(cache, 0);
  await decoder.prefill(ids, cache, { layers, onProgress: look });
  const seconds = (performance.now() - start) / 1e3;
  console.log(
    `prefill of ${prompt} tokens through ${layers} of ${config.layers} layers: ${seconds.toFixed(1)} s, ` +
      `${(prompt / seconds).toFixed(0)} tokens/s`,
  );
}
await ready();
await generateAt(model, context, 1, 8);
const { decodeTokensPerSecond } = await generateAt(model, context, 1, software ? 8 : 48);
asked = 0;
look();
console.log(
  `decode at ${context}: ${decodeTokensPerSecond.toFixed(1)} tokens/s, ${
    (1e3 / decodeTokensPerSecond).toFixed(2)
  } ms a token`,
);
console.log(`GPU memory at the peak: ${peak} MB (${GiB(peak * 2 ** 20)}), ${before} MB of them before`);
