/**
 * Measures the methods of a published table on the bundled model and compares: `deno run -A bench/quality.ts`.
 *
 * Prints each figure beside the reference (`tests/fixtures/quality.json`, an independent implementation) and whether it
 * agrees: perplexity to 1 %, KL to 10 % or 5e-6, tasks to 2 answers for codecs that are fixed and three binomial standard
 * errors for trained ones. Options: `--codebook NAME=FILE` adds trained codebooks; `--only A,B` keeps some methods;
 * `--no-tasks`; `--chunks N`; `--out DIR` writes a report of each setting. Exits with 1 where a figure disagrees.
 */
import { parseArgs } from "@std/cli";
import { evaluate, type Evaluation, load, parseTasks, readCodebook, reportFiles } from "../mod.ts";
import { readFile, readTexts } from "../src/cli/texts.ts";

interface Reference {
  settings: Record<string, { window: number; sinks: number }>;
  perplexity: Record<string, Record<string, { all: number; second_half: number }>>;
  kl: Record<string, Record<string, { mean: number; p99: number; top1: number }>>;
  tasks: Record<string, Record<string, [right: number, all: number]>>;
}

const args = parseArgs(Deno.args, {
  string: ["only", "out", "chunks"],
  boolean: ["no-tasks"],
  collect: ["codebook"],
});
const folder = new URL("../models/fable-28m/", import.meta.url);
const file = (name: string): string => new URL(name, folder).pathname;
const reference: Reference = JSON.parse(
  await Deno.readTextFile(new URL("../tests/fixtures/quality.json", import.meta.url)),
);
const fixed = ["q8_0", "q4_0", "kivi4", "kivi2", "kivi1", "turbo2", "turbo1"];
const only = args.only?.split(","), chunks = Number(args.chunks ?? 24);
const texts = await readTexts([file("eval/heldout-books.jsonl.gz")]);
const tasks = parseTasks(await readFile(file("eval/tasks.jsonl.gz"), "tasks"), "tasks.jsonl.gz");
const codebooks = await Promise.all((args.codebook as string[]).map(async (entry) => {
  const [name, path] = entry.split("=") as [string, string];
  return { name, codebook: await readCodebook(path) };
}));

using llama = await load(file("fable-28m.Q8_0.gguf"), { kv: { bits: 16 } });
let compared = 0, apart = 0;
/** Prints a figure beside the reference's. */
function compare(what: string, own: number, wanted: number, limit: number, digits = 4): void {
  const off = Math.abs(own - wanted), agrees = off <= limit;
  compared++;
  if (!agrees) apart++;
  console.log(
    `  ${what.padEnd(34)} ${own.toPrecision(digits).padStart(11)} ${wanted.toPrecision(digits).padStart(11)} ` +
      `${(100 * (own / wanted - 1)).toFixed(2).padStart(8)} %  ${agrees ? "" : "<- apart"}`,
  );
}

for (const [name, { window, sinks }] of Object.entries(reference.settings)) {
  const withTasks = !args["no-tasks"] && name === "common", started = performance.now();
  const evaluation: Evaluation = await evaluate(llama, {
    ...{ window, sinks, texts, chunks, codebooks, tasks: withTasks ? tasks : [] },
    baselines: fixed.filter((method) => !only || only.includes(method)),
  });
  console.log(
    `\n${name}: window ${window}, ${sinks} sinks; ${
      ((performance.now() - started) / 1e3).toFixed(0)
    } s on ${llama.device}`,
  );
  console.log(`  ${"".padEnd(34)} ${"own".padStart(11)} ${"reference".padStart(11)}`);
  for (const method of evaluation.methods) {
    const wanted = reference.perplexity[name]![method.name], kl = reference.kl[name]![method.name];
    if (!wanted) continue;
    compare(`${method.name} perplexity`, method.perplexity, wanted.all, 0.01 * wanted.all, 6);
    compare(
      `${method.name} perplexity, 2nd half`,
      method.perplexitySecondHalf,
      wanted.second_half,
      0.01 * wanted.second_half,
      6,
    );
    if (kl) {
      compare(`${method.name} KL`, method.kl.mean, kl.mean, Math.max(0.1 * kl.mean, 5e-6));
      compare(`${method.name} KL p99`, method.kl.p99, kl.p99, Math.max(0.1 * kl.p99, 1e-4));
      compare(`${method.name} top-1`, method.top1, kl.top1, 0.01);
    }
    if (!withTasks) continue;
    for (const [cell, [right, all]] of Object.entries(reference.tasks[method.name] ?? {})) {
      const share = Math.min(all - 0.5, Math.max(0.5, right)) / all, error = Math.sqrt(share * (1 - share) * all);
      const limit = method.name.startsWith("commvq") ? Math.max(2, 3 * Math.SQRT2 * error) : 2;
      const own = method.answers[cell]?.right ?? NaN;
      compared++;
      if (Math.abs(own - right) <= limit) continue;
      apart++;
      console.log(`  ${method.name} ${cell}: ${own} of ${all} answers, reference ${right}  <- apart`);
    }
  }
  if (args.out) {
    await Deno.mkdir(`${args.out}/${name}`, { recursive: true });
    for (const [path, text] of Object.entries(reportFiles(evaluation))) {
      if (path === "index.html" || path === "evaluation.json" || path === "evaluation.md") {
        await Deno.writeTextFile(`${args.out}/${name}/${path}`, text);
      }
    }
  }
}
console.log(`\n${compared - apart} of ${compared} figures agree`);
Deno.exit(apart > 0 ? 1 : 0);
