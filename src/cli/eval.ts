import { basename, dirname, join } from "@std/path";
import {
  codebookBeside,
  type CodebookMethod,
  evaluate,
  type EvaluateOptions,
  type Evaluation,
  FAMILIES,
  type Family,
  generateTasks,
  load,
  parseTasks,
  readCodebook,
  type Regime,
  reportFiles,
  reportMarkdown,
  type Task,
} from "../../mod.ts";
import { Args, UsageError } from "./args.ts";
import { bundledModel } from "./generate.ts";
import { formatSeconds, ProgressBar } from "./progress.ts";
import { prepareFolder, readFile, readTexts } from "./texts.ts";

const EVAL_HELP = `usage: commvq eval [OPTIONS]

  --model M           a .gguf file, a Hugging Face folder, or a URL of either; the bundled model by default
  --kv N|K,V          bits at which codebooks are measured, 1 or 2; 16 for none; may be repeated (both)
  --codebook C        codebooks to measure; those beside the model by default; may be repeated
  --text F            text to measure perplexity and divergence on: .jsonl documents with a field 'text', or plain; may
                      be .gz; may be repeated
  --tasks F           tasks with answers: .jsonl, may be .gz; or KIND@CHARS,... for fresh ones, as passkey@12000; or
                      'bundled'; may be repeated; without --text and --tasks, texts and tasks are the bundled ones
  --count N           fresh tasks of each kind and length (24)
  --depths A,B        depths of fresh pass keys, 0 to 1, in turn (spread evenly)
  --baselines A,B     published methods to compare with, or 'none'; 'noise:A' is the control of A
  --regime chunked|deployment   compressed all through, so that errors compound (default), or from a text's middle on
  --window N          newest tokens that a query sees exactly, its own included (64)
  --sinks N           first tokens that a query sees exactly (4)
  --chunk N           texts are cut into documents of N tokens (4096)
  --chunks N          documents: the first of each text, then the second of each (24)
  --base NAME         the method that others are compared with, in pairs (fp16)
  --quick             short texts and few tasks: minutes on a CPU
  --out DIR           write JSON, Markdown, charts and a page to DIR
  --json              print one JSON object and nothing else`;

const BASELINES = "q8_0,q8_0+hadamard,kivi4,q4_0,q4_0+hadamard,kivi2,turbo2,kvquant2,kivi1,turbo1";
/** What `--quick` measures unless told otherwise. */
const QUICK = {
  baselines: "q4_0,turbo2",
  chunk: 256,
  chunks: 2,
  cell: "kv_lookup@1500",
  tasks: 1,
};
/** How many tasks of a kind and length are made. */
const FRESH_TASKS = 24;
/** Characters of prose that fresh tasks are hidden in. */
const FILLER = 2 ** 18;
/** What `--tasks` calls those that come with the model. */
const BUNDLED = "bundled";

type Bits = 1 | 2;

function bitsOf(texts: readonly string[]): { k: Bits; v: Bits }[] {
  return texts.filter((text) => text !== "16").map((text) => {
    const [k, v = k, ...more] = text.split(",").map(Number);
    if (![1, 2].includes(k!) || ![1, 2].includes(v!) || more.length > 0) {
      throw new UsageError(`Cannot use --kv ${text} with 'eval': it must be 1, 2, K,V of these, or 16 for no codebook`);
    }
    return { k: k as Bits, v: v as Bits };
  });
}

/** Every codebook at every number of bits asked for, by the names of the published figures. */
async function codebooks(args: Args, model: string): Promise<EvaluateOptions["codebooks"]> {
  const given = args.list("codebook"), beside = codebookBeside(model);
  const paths = given.length > 0 ? given : beside ? [beside] : [], asked = args.list("kv");
  const all: (CodebookMethod & { own: string })[] = [];
  const bits = bitsOf(asked);
  if (bits.length > 0 && paths.length === 0) {
    throw new UsageError("Cannot measure --kv without a codebook: pass --codebook C, or train one");
  }
  for (const path of paths) {
    const codebook = await readCodebook(path), { values } = codebook, own = basename(path, ".safetensors");
    const fitting: Bits[] = "bits" in values ? [values.bits] : [2, 1]; // a network is for its bits alone
    for (const { k, v } of asked.length > 0 ? bits : fitting.map((both) => ({ k: both, v: both }))) {
      all.push({ name: `commvq${k === v ? k : `${k}+${v}`}`, own, codebook, bits: { k, v } });
    }
  }
  return all.map(({ name, own, ...rest }) => {
    const alone = all.filter((other) => other.name === name).length === 1;
    return { name: alone ? name : `${name} ${own}`, ...rest };
  });
}

/** A file of the bundled data. */
function bundled(name: string): string {
  return join(dirname(bundledModel()), "eval", name);
}

/** Tasks of a file, the bundled ones, or, where kinds and lengths are asked for, some made up on the spot. */
async function tasksOf(asked: string, args: Args): Promise<Task[]> {
  if (!/^\w+@\d+(,\w+@\d+)*$/.test(asked)) {
    const path = asked === BUNDLED ? bundled("tasks.jsonl.gz") : asked;
    return parseTasks(await readFile(path, "tasks"), path);
  }
  const count = args.integer("count", 1) ?? FRESH_TASKS,
    depths = depthsOf(args.string("depths"));
  const filler = (await readTexts([bundled("heldout-books.jsonl.gz")])).join("\n").slice(0, FILLER);
  return asked.split(",").flatMap((cell) => {
    const [family, chars] = cell.split("@") as [Family, string];
    if (!FAMILIES.includes(family)) {
      throw new UsageError(`Cannot make tasks '${family}': the kinds are ${FAMILIES.join(", ")}`);
    }
    return generateTasks({ family, chars: Number(chars), count, depths, filler });
  });
}

function depthsOf(text: string | undefined): number[] | undefined {
  const depths = text?.split(",").map((depth) => depth.trim() === "" ? NaN : Number(depth));
  if (!depths || depths.every((depth) => depth >= 0 && depth <= 1)) return depths;
  throw new UsageError(`Cannot use --depths ${text}: they must be numbers from 0 to 1, as 0,0.5,1`);
}

function choice<T extends string>(args: Args, name: string, choices: readonly T[]): T | undefined {
  const value = args.string(name);
  if (value === undefined || choices.includes(value as T)) return value as T | undefined;
  throw new UsageError(`Cannot use --${name} ${value}: it must be ${choices.join(" or ")}`);
}

async function readOptions(args: Args, model: string): Promise<EvaluateOptions> {
  const quick = args.flag("quick"), texts = [...args.list("text"), ...args.rest], tasks = args.list("tasks");
  const own = texts.length > 0 || tasks.length > 0;
  const documents = await readTexts(own ? texts : [bundled("heldout-books.jsonl.gz")]);
  const named = args.string("baselines") ?? (quick ? QUICK.baselines : BASELINES);
  const baselines = named === "none" ? [] : named.split(",").filter(Boolean);
  const all = (await Promise.all((own ? tasks : [BUNDLED]).map((one) => tasksOf(one, args)))).flat();
  const read = quick && !own ? all.filter((t) => `${t.task}@${t.chars}` === QUICK.cell).slice(0, QUICK.tasks) : all;
  return {
    baselines,
    codebooks: await codebooks(args, model),
    texts: documents,
    tasks: read,
    calibration: baselines.some((name) => name.includes("kvquant"))
      ? await readTexts([bundled("calibration.jsonl.gz")])
      : [],
    regime: choice<Regime>(args, "regime", ["chunked", "deployment"]),
    window: args.integer("window", 1),
    sinks: args.integer("sinks", 0),
    chunkTokens: args.integer("chunk", 2) ?? (quick ? QUICK.chunk : undefined),
    chunks: args.integer("chunks", 1) ?? (quick ? QUICK.chunks : 24),
    base: args.string("base"),
  };
}

/** `eval`: what ways of keeping the cache do to a model. */
export async function evaluateCommand(argv: string[]): Promise<void> {
  if (argv.includes("--help")) return console.log(EVAL_HELP);
  const args = new Args("eval", argv, {
    values: [
      ...["model", "count", "depths", "baselines", "regime", "window", "sinks", "chunk", "chunks", "base", "out"],
    ],
    many: ["kv", "codebook", "text", "tasks"],
    flags: ["quick", "json"],
  });
  const model = args.string("model") ?? bundledModel(),
    options = await readOptions(args, model),
    out = args.string("out");
  if (out !== undefined) await prepareFolder(out, "out");
  const bar = new ProgressBar(), interrupt = new AbortController();
  const onInterrupt = (): void => {
    Deno.removeSignalListener("SIGINT", onInterrupt); // a second one ends the process
    interrupt.abort();
  };
  Deno.addSignalListener("SIGINT", onInterrupt);
  let evaluation: Evaluation;
  try {
    using llama = await load(model, {
      kv: { bits: 16 },
      signal: interrupt.signal,
      onProgress: ({ phase, loaded, total }) => bar.show(phase, loaded, total),
    });
    const started = performance.now();
    evaluation = await evaluate(llama, {
      ...options,
      signal: interrupt.signal,
      onProgress: ({ phase, done, total }) => {
        const left = (performance.now() - started) / 1e3 * (total - done) / done;
        bar.show(phase, done, total, `${formatSeconds(left)} left`);
      },
    });
  } finally {
    bar.clear();
    Deno.removeSignalListener("SIGINT", onInterrupt);
  }
  if (out !== undefined) await writeReport(out, evaluation);
  console.log(args.flag("json") ? JSON.stringify(evaluation) : reportMarkdown(evaluation));
  if (out !== undefined && !args.flag("json")) console.error(`Open ${join(out, "index.html")} for charts`);
}

async function writeReport(folder: string, evaluation: Evaluation): Promise<void> {
  for (const [name, text] of Object.entries(reportFiles(evaluation))) {
    await Deno.writeTextFile(join(folder, name), text);
  }
}
