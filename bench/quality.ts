/**
 * Measures the methods of a published table on the bundled model and compares: `deno run -A bench/quality.ts`.
 *
 * Prints each figure beside the reference (`tests/fixtures/quality.json`, an independent implementation) and whether it
 * agrees: perplexity to 1 %, KL to 10 % or 5e-6, tasks to 2 answers for codecs that are fixed and three binomial standard
 * errors for trained ones. Options: `--codebook commvqN=FILE` adds codebooks trained as published, at N bits; `--only A,B` keeps some methods and
 * `--cells A,B` some cells; `--no-tasks` and `--no-texts` leave one half out; `--out DIR` writes a report of each setting.
 * Exits with 1 where a figure disagrees.
 */
import { parseArgs } from "@std/cli";
import { evaluate, type Evaluation, load, type MethodFigures, parseTasks, readCodebook, reportFiles } from "../mod.ts";
import { readFile, readTexts } from "../src/cli/texts.ts";

interface Reference {
  settings: Record<string, { window: number; sinks: number }>;
  perplexity: Record<string, Record<string, { all: number; second_half: number }>>;
  kl: Record<string, Record<string, { mean: number; p99: number; top1: number }>>;
  tasks: Record<string, Record<string, [right: number, all: number]>>;
}

const args = parseArgs(Deno.args, {
  string: ["only", "out", "cells", "codebook"],
  boolean: ["no-tasks", "no-texts"],
  collect: ["codebook"],
});
const folder = new URL("../models/fable-28m/", import.meta.url);
const file = (name: string): string => new URL(name, folder).pathname;
const reference: Reference = JSON.parse(
  await Deno.readTextFile(new URL("../tests/fixtures/quality.json", import.meta.url)),
);
const fixed = ["q8_0", "q4_0", "kivi4", "kivi2", "kivi1", "turbo2", "turbo1"];
const only = args.only?.split(","), cells = args.cells?.split(","), withTexts = !args["no-texts"];
const texts = await readTexts([file("eval/heldout-books.jsonl.gz")]);
const tasks = parseTasks(await readFile(file("eval/tasks.jsonl.gz"), "tasks"), "tasks.jsonl.gz")
  .filter(({ task, chars }) => !cells || cells.includes(`${task}@${chars}`));
const codebooks = await Promise.all((args.codebook as string[]).map(async (entry) => {
  const [name, path] = entry.split("=") as [string, string];
  const both = Number(name.at(-1)) as 1 | 2;
  return { name, codebook: await readCodebook(path), bits: { k: both, v: both } };
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

type Texts = Reference["perplexity"][string][string];
type Divergence = Reference["kl"][string][string];

function compareTexts(own: MethodFigures, { all, second_half: half }: Texts, kl?: Divergence): void {
  compare(`${own.name} perplexity`, own.perplexity, all, 0.01 * all, 6);
  compare(`${own.name} perplexity, 2nd half`, own.perplexitySecondHalf, half, 0.01 * half, 6);
  if (!kl) return;
  compare(`${own.name} KL`, own.kl.mean, kl.mean, Math.max(0.1 * kl.mean, 5e-6));
  compare(`${own.name} KL p99`, own.kl.p99, kl.p99, Math.max(0.1 * kl.p99, 1e-4));
  compare(`${own.name} top-1`, own.top1, kl.top1, 0.01);
}

function compareTasks({ name, answers }: MethodFigures, wanted: Reference["tasks"][string]): void {
  for (const [cell, { right }] of Object.entries(answers)) {
    const [other, all] = wanted[cell]!, share = Math.min(all - 0.5, Math.max(0.5, other)) / all;
    const error = Math.sqrt(2 * share * (1 - share) * all),
      limit = name.startsWith("commvq") ? Math.max(2, 3 * error) : 2;
    const agrees = Math.abs(right - other) <= limit;
    compared++;
    if (!agrees) apart++;
    console.log(
      `  ${`${name} ${cell}`.padEnd(34)} ${right} of ${all}, reference ${other}${agrees ? "" : "  <- apart"}`,
    );
  }
}

for (const [name, { window, sinks }] of Object.entries(reference.settings)) {
  const withTasks = !args["no-tasks"] && name === "common", started = performance.now();
  if (!withTexts && !withTasks) continue;
  const evaluation: Evaluation = await evaluate(llama, {
    ...{ window, sinks, texts: withTexts ? texts : [], chunks: 24, codebooks, tasks: withTasks ? tasks : [] },
    baselines: fixed.filter((method) => !only || only.includes(method)),
  });
  console.log(
    `\n${name}: window ${window}, ${sinks} sinks; ${
      ((performance.now() - started) / 1e3).toFixed(0)
    } s on ${llama.device}`,
  );
  console.log(`  ${"".padEnd(34)} ${"own".padStart(11)} ${"reference".padStart(11)}`);
  for (const method of evaluation.methods) {
    const wanted = reference.perplexity[name]![method.name];
    if (!wanted) continue;
    if (withTexts) compareTexts(method, wanted, reference.kl[name]![method.name]);
    if (withTasks) compareTasks(method, reference.tasks[method.name] ?? {});
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
