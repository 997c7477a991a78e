/**
 * The codec ladder, from the published recipe to the best, rung by rung:
 *
 *   deno run -A bench/ladder.ts --calibration mixed.jsonl.gz [--cache DIR] [--seeds 1,2,3] [--rungs A,B] [--quick]
 *
 * Trains each rung's codebook, or takes it from the folder `--cache` (out/ladder), evaluates it at 2 bits and at 1, and
 * prints rows of a Markdown table as they finish: the most important rungs first, further seeds last. Options: `--tokens`
 * to train on (65536), `--chunks` of held-out text (12) and no tasks with `--no-tasks`; `--without A,B` leaves out
 * calibration texts that begin with A or with B; `--quick` is a smoke test for a CPU.
 */
import { parseArgs } from "@std/cli";
import { basename, dirname, fromFileUrl, join } from "@std/path";
import {
  calibrateTiers,
  type Codebook,
  defaultTiers,
  evaluate,
  load,
  parseTasks,
  readCodebook,
  type TierPlans,
  trainCodebooks,
  type TrainCodebooksOptions,
} from "../mod.ts";
import { readFile, readTexts } from "../src/cli/texts.ts";

/** What the command trains where nothing is asked for. */
const USUAL = defaultTiers(64);

/** How a codebook is trained. Rungs that differ by encoding alone share one, as do those that differ by its first stages. */
const CODEBOOKS: Readonly<Record<string, Omit<TrainCodebooksOptions, "texts">>> = {
  published: { tied: true, metric: "plain", valueMetric: "plain" },
  untied: { tied: false, metric: "plain", valueMetric: "plain" },
  query: { tied: false, metric: "query", valueMetric: "plain", splits: { 2: { keys: 14, values: 12 } } },
  output: { tied: false, metric: "query", valueMetric: "output", splits: { 2: { keys: 14, values: 12 } } },
  usual: {
    stages: USUAL.stages,
    splits: { 2: { keys: USUAL.stages.keys.length, values: USUAL.stages.values.length } },
  },
};
const EVEN = { 1: { keys: 5, values: 5 }, 2: { keys: 10, values: 10 } };
const SPLIT = { 1: { keys: 7, values: 3 }, 2: { keys: 12, values: 8 } };
const TIERS = {
  1: { keys: { base: 2, stages: 14 }, values: { base: 2, stages: 10 } },
  2: { keys: { base: 9, stages: 14 }, values: { base: 8, stages: 12 } },
};

/** A codebook and how it is applied. */
interface Rung extends Pick<Codebook, "beam" | "splits"> {
  readonly codebook: string;
  readonly tiers?: TierPlans;
}

const RUNGS: Readonly<Record<string, Rung>> = {
  published: { codebook: "published", splits: EVEN },
  untied: { codebook: "untied", splits: EVEN },
  "query metric": { codebook: "query", splits: EVEN },
  "beam 4": { codebook: "query", splits: EVEN, beam: 4 },
  split: { codebook: "query", splits: SPLIT, beam: 4 },
  tiers: { codebook: "query", beam: 4, tiers: TIERS },
  "output metric": { codebook: "output", splits: EVEN, beam: 4 },
  "output metric and split": { codebook: "output", splits: SPLIT, beam: 4 },
  "output metric and tiers": { codebook: "output", beam: 4, tiers: TIERS },
  "and values of sub-vectors": { codebook: "usual", beam: 4, tiers: USUAL.tiers },
};
/** Most telling first; those of one codebook after each other. */
const ORDER = [
  "published",
  "beam 4",
  "tiers",
  "split",
  "query metric",
  "untied",
  "output metric",
  "output metric and tiers",
  "and values of sub-vectors",
];
const CELLS = [
  "passkey@4000",
  "needles@4000",
  "kv_lookup@1500",
  "recall_names@4000",
  "variables@1000",
  "copy_words@800",
];

const args = parseArgs(Deno.args, {
  string: ["calibration", "cache", "seeds", "rungs", "tokens", "chunks", "without"],
  boolean: ["quick", "no-tasks"],
});
const { quick } = args, root = dirname(dirname(fromFileUrl(import.meta.url))), model = join(root, "models/fable-28m");
const file = (name: string): string => join(model, "eval", name);
const calibration = args.calibration ?? file("calibration.jsonl.gz"), cache = args.cache ?? join(root, "out/ladder");
const tokens = Number(args.tokens ?? (quick ? 512 : 65_536)), chunks = Number(args.chunks ?? (quick ? 1 : 12));
const seeds = (args.seeds ?? "1").split(",").map(Number), rungs = args.rungs?.split(",") ?? ORDER;
const without: string[] = args.without?.split(",") ?? [];
const calibrationTexts = (await readTexts([calibration])).filter((text) => !without.some((w) => text.startsWith(w)));
const texts = await readTexts([file("heldout-books.jsonl.gz")]);
const all = parseTasks(await readFile(file("tasks.jsonl.gz"), "tasks"), "tasks.jsonl.gz");
const tasks = args["no-tasks"]
  ? []
  : CELLS.flatMap((cell) => all.filter(({ task, chars }) => `${task}@${chars}` === cell))
    .filter(({ chars }, i) => !quick || (chars === 800 && i % 12 === 0));
await Deno.mkdir(cache, { recursive: true });
using llama = await load(join(model, "fable-28m.Q8_0.gguf"), { kv: { bits: 16 } });

/** The codebook of a rung, from the cache's folder if it is there. */
async function codebookOf({ codebook, beam, splits, tiers }: Rung, seed: number): Promise<Codebook> {
  const options = { ...CODEBOOKS[codebook]!, texts: calibrationTexts, tokens, seed };
  const part = without.length > 0 ? `-without-${without.length}` : "";
  const path = join(cache, `${basename(calibration)}${part}-${tokens}-${codebook}-${seed}.safetensors`);
  const trained = await readCodebook(path).catch(() => trainCodebooks(llama, { ...options, path, resume: true }));
  const book = { ...trained, beam, splits };
  return tiers
    ? await calibrateTiers(llama, book, { texts: calibrationTexts, tokens: Math.min(tokens, 16_384), tiers })
    : book;
}

/** Prints the rows of a rung, 2 bits and 1 bit; the exact cache's too where `first`. */
async function rows(rung: string, seed: number, first: boolean): Promise<void> {
  const started = performance.now(), codebook = await codebookOf(RUNGS[rung]!, seed), trained = performance.now();
  const { methods } = await evaluate(llama, {
    ...{ texts, tasks, chunks, chunkTokens: quick ? 128 : 4096 },
    codebooks: ([2, 1] as const).map((b) => ({ name: `${b}`, codebook, bits: { k: b, v: b } })),
  });
  const exact = methods.find(({ name }) => name === "fp16")!;
  for (const { name, bitsCode, bitsEffective, bitsAll, kl, perplexity, answers } of methods) {
    if (!(name === "2" || name === "1" || (first && name === "fp16"))) continue;
    const spans = CELLS.map((cell) => answers[cell]?.right ?? 0),
      of = name === "fp16" ? "exact cache" : `${rung}, seed ${seed}`;
    const increase = 100 * (perplexity / exact.perplexity - 1);
    const numbers = [
      bitsCode.toFixed(3),
      bitsEffective.toFixed(3),
      bitsAll.toFixed(2),
      kl.mean.toFixed(5),
      kl.p99.toFixed(3),
    ];
    console.log(
      `| ${[of, ...numbers, `${increase.toFixed(2)} %`, ...spans, spans.reduce((a, b) => a + b, 0)].join(" | ")} |`,
    );
  }
  const [train, evaluation] = [trained - started, performance.now() - trained].map((ms) => (ms / 1e3).toFixed(0));
  console.error(`${rung}, seed ${seed}: codebook ${train} s, evaluation ${evaluation} s`);
}

const left = without.length > 0 ? `, without texts that begin with ${without.map((w) => `'${w}'`).join(" or ")}` : "";
console.log(`${llama.device}; ${basename(calibration)}, ${tokens} tokens${left}; window 64, 4 sinks\n`);
const titles = ["rung", "bits of codes", "b_eff", "b_all", "KL", "p99", "perplexity", ...CELLS, "spans"];
console.log(`| ${titles.join(" | ")} |\n|${" --- |".repeat(titles.length)}`);
for (const [s, seed] of seeds.entries()) {
  for (const [r, rung] of rungs.entries()) await rows(rung, seed, s + r === 0);
}
