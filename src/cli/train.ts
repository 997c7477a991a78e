import { basename, dirname } from "@std/path";
import {
  defaultTiers,
  distortionChart,
  distortionTable,
  inspectModel,
  load,
  recordedDistortion,
  type Stage,
  type TierPlans,
  type TierStages,
  trainCodebooks,
  type TrainCodebooksOptions,
} from "../../mod.ts";
import { Args, UsageError } from "./args.ts";
import { bundledModel } from "./generate.ts";
import { formatSeconds, ProgressBar } from "./progress.ts";
import { prepareFolder, readTexts } from "./texts.ts";

const TRAIN_HELP = `usage: commvq train --text F... --out C [OPTIONS]

  --text F            text like the use: .jsonl documents with a field 'text', or plain; may be .gz; may be repeated
  --out C             the codebook file to write (.safetensors); a chart of its distortion goes beside it (.svg)
  --model M           a .gguf file, a Hugging Face folder, or a URL of either; the bundled model by default
  --bits 1|2          bits an element (2; its first stages serve 1 bit)
  --tokens N          tokens to train on (131072)
  --values codebook|encoder   additive codebooks for each head, or the published network over all heads
  --value-seeds N     trainings of the network, of which each layer's best is kept (3)
  --untied, --tied    key words with free second halves (the default), or tied to the first, as published
  --metric query|plain        fit keys to what errors do to the model's queries (default where untied), or to their length
  --value-metric output|plain fit values to what errors do after the output projection (default), or to their length
  --beam N            ways that encoding keeps, 1 to 8 (4); 1 is greedy, as published
  --key-stages A[,B]  stages of keys at --bits, and at 1 bit; as published without
  --value-stages A[,B]        likewise of values; K12 V8 and K7 V3 keep retrieval best
  --key-codec LIST    stages of keys in order, as p,p,16,8: p of pairs, a number of sub-vectors of as many pairs of channels
  --value-codec LIST  likewise of values; stage counts are of these then, and where none are given as many as fit the bits
  --tiers B:K,V       tiers of B bits instead: stages of all tokens and of those that these miss by too much, of keys and of
                      values, as 1:4-12,2-7; may be repeated; without any of these options, and with words untied, tiers
                      and stages as the bundled codebook's
  --soft              annealed soft assignment, as published; by default hard, as good in a third of the steps
  --int8, --int4      store words in 8 bits, or those of stages after the sixth in 4
  --seed S            equal seeds give equal codebooks on the same device (1)
  --resume            go on where an interrupted run stopped`;

function choice<T extends string>(args: Args, name: string, choices: readonly T[]): T | undefined {
  const value = args.string(name);
  if (value === undefined || choices.includes(value as T)) return value as T | undefined;
  throw new UsageError(`Cannot use --${name} ${value}: it must be ${choices.join(" or ")}`);
}

/** Stages of both sides at `bits` and at 1 bit, from `--key-stages 12,7 --value-stages 8,3`. */
function splitsOf(args: Args, bits: 1 | 2): TrainCodebooksOptions["splits"] {
  const [keys, values] = ["key-stages", "value-stages"].map((name) => {
    const text = args.string(name), counts = text?.split(",").map(Number) ?? [];
    if (counts.length < 3 && counts.every((n) => Number.isInteger(n) && n > 0)) return counts;
    throw new UsageError(`Cannot use --${name} ${text}: it must be one or two numbers of stages, as 12,7`);
  }) as [number[], number[]];
  if (keys.length === 0 && values.length === 0) return undefined;
  if (keys.length !== values.length) {
    throw new UsageError("Cannot use --key-stages without as many --value-stages: a split is of both");
  }
  const at = (i: number) => ({ keys: keys[i]!, values: values[i]! });
  return { [bits]: at(0), ...keys.length > 1 && { 1: at(1) } };
}

/** Stages of a side from `--key-codec p,p,16`. */
function codecOf(args: Args, name: string, tied = false): Stage[] | undefined {
  return args.string(name)?.split(",").map((stage): Stage => {
    if (stage === "p") return { kind: "pair", tied };
    if (/^[1-9]\d*$/.test(stage)) return { kind: "sub", pairs: Number(stage) };
    throw new UsageError(
      `Cannot use --${name} ${args.string(name)}: it must be as p,p,16, and ${stage || "''"} is no stage`,
    );
  });
}

/** Stages and tiers where none are asked for. */
function usual(headDim: number, bits: 1 | 2): Pick<TrainCodebooksOptions, "stages" | "tiers"> {
  const { stages, tiers } = defaultTiers(headDim);
  return { stages, tiers: bits === 2 ? tiers : { 1: tiers[1] } };
}

/** Tiers from `--tiers 1:4-12,2-7`. */
function tiersOf(args: Args): TierPlans | undefined {
  const out: Partial<Record<1 | 2, NonNullable<TierPlans[1]>>> = {}, list = args.list("tiers");
  for (const text of list) {
    const side = (text: string): TierStages | undefined => {
      const [, base = 0, stages = 0] = /^(\d+)-(\d+)$/.exec(text)?.map(Number) ?? [];
      return base > 0 && stages > base ? { base, stages } : undefined;
    };
    const [, bits, k = "", v = ""] = /^([12]):([^,]+),([^,]+)$/.exec(text) ?? [], keys = side(k), values = side(v);
    if (!keys || !values) {
      throw new UsageError(`Cannot use --tiers ${text}: it must be as 1:4-12,2-7`);
    }
    out[Number(bits) as 1 | 2] = { keys, values };
  }
  return list.length > 0 ? out : undefined;
}

/** `train`: codebooks for a model, from texts. */
export async function train(argv: string[]): Promise<void> {
  if (argv.includes("--help")) return console.log(TRAIN_HELP);
  const args = new Args("train", argv, {
    values: [
      ...["model", "out", "bits", "tokens", "values", "seed", "metric", "value-metric", "beam"],
      ...["key-stages", "value-stages", "key-codec", "value-codec", "value-seeds"],
    ],
    many: ["text", "tiers"],
    flags: ["resume", "tied", "untied", "soft", "int8", "int4"],
  });
  if (args.rest.length > 0) {
    throw new UsageError(`Cannot use '${args.rest[0]}' with 'train': texts are named by --text`);
  }
  const path = args.required("out", "C"), paths = args.list("text");
  if (paths.length === 0) throw new UsageError("Cannot run 'train' without --text F");
  if (args.flag("tied") && args.flag("untied")) throw new UsageError("Cannot use --tied with --untied");
  if (args.flag("tied") && args.string("metric") === "query") {
    throw new UsageError("Cannot use --metric query with --tied: ties do not outlast the way back from a metric");
  }
  const bits = Number(choice(args, "bits", ["1", "2"]) ?? 2) as 1 | 2;
  const settings = { // read whole before anything is done
    ...{ bits, path, tokens: args.integer("tokens", 1), seed: args.integer("seed", 0, 2 ** 31) },
    values: choice(args, "values", ["codebook", "encoder"]),
    valueSeeds: args.integer("value-seeds", 1, 64),
    tied: args.flag("tied"),
    metric: choice(args, "metric", ["query", "plain"]),
    valueMetric: choice(args, "value-metric", ["output", "plain"]),
    beam: args.integer("beam", 1, 8),
    stages: { keys: codecOf(args, "key-codec", args.flag("tied")), values: codecOf(args, "value-codec") },
    splits: splitsOf(args, bits),
    tiers: tiersOf(args),
    assignment: args.flag("soft") ? "soft" : "hard",
    precision: args.flag("int4") ? "int4" : args.flag("int8") ? "int8" : "f16",
    resume: args.flag("resume"),
  } satisfies Partial<TrainCodebooksOptions>;
  const { tied, values, stages, splits, tiers } = settings;
  const isUsual = !tied && values !== "encoder" && !(stages.keys || stages.values || splits || tiers);
  await prepareFolder(dirname(path), "out");
  const texts = await readTexts(paths);
  const bar = new ProgressBar(), interrupt = new AbortController();
  const onInterrupt = (): void => {
    Deno.removeSignalListener("SIGINT", onInterrupt);
    interrupt.abort();
  };
  Deno.addSignalListener("SIGINT", onInterrupt);
  try {
    const started = performance.now(), { signal } = interrupt;
    const model = args.string("model") ?? bundledModel(), { config } = await inspectModel(model);
    using llama = await load(model, {
      maxContext: Math.min(2048, config.context),
      signal,
      onProgress: ({ phase, loaded, total }) => bar.show(phase, loaded, total),
    });
    const codebook = await trainCodebooks(llama, {
      ...settings,
      ...isUsual && usual(config.headDim, bits),
      ...{ texts, signal },
      record: {
        text: paths.map((file) => basename(file)).join(" "),
        command: ["train", ...argv.filter((a) => a !== "--resume")].map((a) => a.split("/").at(-1)!).join(" "),
      },
      onProgress: (p) => {
        if (p.phase !== "train") return bar.show(p.phase, p.done, p.total);
        const { layer, layers, side, head, stage, stages, distortion, secondsLeft } = p;
        const note =
          `layer ${layer + 1}/${layers} ${side}, head ${head}, stage ${stage + 1}/${stages}: NMSE ${
            distortion.toPrecision(3)
          }, ` +
          `${formatSeconds(secondsLeft)} left`;
        bar.show("train", layer * stages + stage, layers * stages, note);
      },
    });
    bar.clear();
    const seconds = (performance.now() - started) / 1e3, distortion = recordedDistortion(codebook);
    await Deno.writeTextFile(
      path.replace(/(\.safetensors)?$/, ".svg"),
      distortionChart(distortion, `Distortion of ${basename(path)}`),
    );
    console.log(`NMSE on the training text, by layer and stage\n\n${distortionTable(distortion)}\n`);
    console.log(
      `${path}: ${(await Deno.stat(path)).size} bytes, trained in ${formatSeconds(seconds)} on ${llama.device}`,
    );
  } catch (error) {
    if (!interrupt.signal.aborted) throw error;
    throw new Error(`Stopped; finished layers are in ${path}.partial: run the same command with --resume to go on`);
  } finally {
    bar.clear();
    Deno.removeSignalListener("SIGINT", onInterrupt);
  }
}
