import { dirname, fromFileUrl, join } from "@std/path";
import { codebookBeside, type GenerationResult, type KvBits, type Llama, load, type LoadOptions } from "../../mod.ts";
import { Args, UsageError } from "./args.ts";
import { formatBytes, ProgressBar } from "./progress.ts";

export const GENERATE_HELP = `usage: commvq generate [OPTIONS] PROMPT

  PROMPT                  the text to continue; '-' reads standard input
  --prompt-file F         read the prompt from a file
  --model M               a .gguf file, a Hugging Face folder, or a URL of either; the bundled model by default
  --kv 16|2|1|K,V         bits an element of the cache, or of keys and of values
  --codebook C            codebooks for a compressed cache; the bundled ones for the bundled model
  --window N  --sinks N   newest and first tokens kept exact in a compressed cache
  --max-context N         most tokens of prompt and text together
  --max-tokens N          most tokens to generate (256)
  --temperature T         0 is greedy (0.7; 0 with --json)
  --top-k K  --top-p P  --min-p P  --repetition-penalty R  --seed S
  --stop STR              end the text before STR; may be repeated
  --ignore-eos            go on past the end-of-text token
  --json                  print one JSON object and nothing else`;

/** Where the bundled model lies, in a checkout. */
export function bundledModel(): string {
  const url = new URL("../../models/fable-28m/fable-28m.Q8_0.gguf", import.meta.url);
  if (url.protocol !== "file:") {
    throw new UsageError("Cannot use the bundled model as this module was not loaded from a checkout: pass --model");
  }
  return fromFileUrl(url);
}

/** The `load` options of `--kv` and its companions: 1 bit where there is a codebook, else an exact cache. */
export function loadOptions(args: Args, source: string): LoadOptions {
  const codebook = args.string("codebook"), otherwise = codebook || codebookBeside(source) ? "1" : "16";
  const bits = (args.string("kv") ?? otherwise).split(",").map((text) => {
    if (!["1", "2", "16"].includes(text)) throw new UsageError(`Cannot use --kv ${text}: it must be 16, 2, 1 or K,V`);
    return Number(text) as KvBits;
  });
  if (bits.length > 2) throw new UsageError("Cannot use more than two numbers with --kv: keys, then values");
  const [k, v = k] = bits, window = args.integer("window", 0), sinks = args.integer("sinks", 0);
  return { kv: { bits: { k: k!, v: v! }, codebook, window, sinks }, maxContext: args.integer("max-context", 1) };
}

async function readPrompt(args: Args): Promise<string> {
  const file = args.string("prompt-file"), [prompt, ...more] = args.rest;
  if (more.length > 0) throw new UsageError("Cannot continue several prompts: quote the prompt as one argument");
  if (file !== undefined) {
    if (prompt !== undefined) throw new UsageError("Cannot use a prompt beside --prompt-file: give one of them");
    return await Deno.readTextFile(file).catch((error) => {
      throw new UsageError(`Cannot read --prompt-file ${file}: ${error.message}`);
    });
  }
  if (prompt === undefined) {
    throw new UsageError("Cannot generate without a PROMPT: pass one, '-' for standard input, or --prompt-file F");
  }
  return prompt === "-" ? await new Response(Deno.stdin.readable).text() : prompt;
}

/** `generate`: streams a model's continuation of a prompt. */
export async function generate(argv: string[]): Promise<void> {
  if (argv.includes("--help")) return console.log(GENERATE_HELP);
  const args = new Args("generate", argv, {
    values: [
      "model",
      "kv",
      "codebook",
      "window",
      "sinks",
      "max-context",
      "max-tokens",
      "temperature",
      "top-k",
      "top-p",
      "min-p",
      "repetition-penalty",
      "seed",
      "prompt-file",
    ],
    many: ["stop"],
    flags: ["json", "ignore-eos"],
  }); // deno-fmt-ignore-line
  const json = args.flag("json"), options = {
    maxTokens: args.integer("max-tokens", 0),
    temperature: args.number("temperature", 0) ?? (json ? 0 : 0.7),
    topK: args.integer("top-k", 0),
    topP: args.number("top-p", 0, 1),
    minP: args.number("min-p", 0, 1),
    repetitionPenalty: args.number("repetition-penalty", 0),
    seed: args.integer("seed", 0, 2 ** 32 - 1) ?? (json ? 0 : crypto.getRandomValues(new Uint32Array(1))[0]),
    stop: args.list("stop"),
    ignoreEos: args.flag("ignore-eos"),
  };
  const source = args.string("model") ?? bundledModel(),
    kv = loadOptions(args, source),
    prompt = await readPrompt(args);
  const bar = new ProgressBar(), interrupt = new AbortController();
  const onInterrupt = (): void => {
    Deno.removeSignalListener("SIGINT", onInterrupt); // a second one ends the process
    interrupt.abort(new Error("Cannot show any text as the command was interrupted before the model was loaded"));
  };
  Deno.addSignalListener("SIGINT", onInterrupt);
  try {
    const started = performance.now();
    using llama = await load(source, {
      ...kv,
      signal: interrupt.signal,
      onProgress: ({ phase, loaded, total }) =>
        bar.show(phase, loaded, total, phase === "weights" ? formatBytes(total) : ""),
    });
    const loadSeconds = (performance.now() - started) / 1e3;
    const generation = llama.generate(prompt, {
      ...options,
      signal: interrupt.signal,
      onPrefill: (done, total) => bar.show("prompt", done, total),
    });
    if (!json) await show(prompt, generation, bar);
    const result = await generation.done;
    bar.clear();
    if (json) console.log(JSON.stringify(record(llama, prompt, result, loadSeconds)));
    else console.error(summary(llama, result));
  } finally {
    bar.clear();
    Deno.removeSignalListener("SIGINT", onInterrupt);
  }
}

async function show(prompt: string, tokens: AsyncIterable<{ text: string }>, bar: ProgressBar): Promise<void> {
  const encoder = new TextEncoder(), write = (text: string): number => Deno.stdout.writeSync(encoder.encode(text));
  let open = false;
  for await (const { text } of tokens) {
    if (!open) {
      bar.clear();
      write(Deno.stdout.isTerminal() ? `\x1b[2m${prompt}\x1b[0m` : prompt);
      open = true;
    }
    write(text);
  }
  if (open) write("\n");
}

function summary(llama: Llama, { stopReason, usage }: GenerationResult): string {
  const rate = (value: number): string => value.toFixed(value < 10 ? 1 : 0);
  return `\n${usage.generatedTokens} tokens (${stopReason}) at ${
    rate(usage.decodeTokensPerSecond)
  } tokens/s after a prompt of ` +
    `${usage.promptTokens} at ${rate(usage.prefillTokensPerSecond)} tokens/s, on ${llama.device}\n` +
    cacheSummary(llama);
}

/** What the cache takes, and what it saves. */
function cacheSummary({ kv, maxContext }: Llama): string {
  const { bits: { k, v }, bytes, f16Bytes, codebookBytes } = kv,
    size = `${formatBytes(bytes)} for ${maxContext} tokens`;
  if (codebookBytes === 0) return `cache: ${size}, exact (f16)`;
  return `cache: ${size} at ${k.toFixed(2)} bits an element of keys and ${v.toFixed(2)} of values, where f16 takes ${
    formatBytes(f16Bytes)
  }; ` +
    `codebooks ${formatBytes(codebookBytes)}, whatever the length`;
}

function record(llama: Llama, prompt: string, result: GenerationResult, loadSeconds: number): unknown {
  const { kv } = llama, { prefillTokensPerSecond, decodeTokensPerSecond } = result.usage;
  return {
    model: llama.name,
    prompt,
    promptTokens: result.promptTokens,
    tokens: result.tokens,
    text: result.text,
    stopReason: result.stopReason,
    kv: { bits: kv.bits, bytes: kv.bytes, f16Bytes: kv.f16Bytes, codebookBytes: kv.codebookBytes },
    usage: { prefillTokensPerSecond, decodeTokensPerSecond, loadSeconds },
    device: llama.device,
  };
}

/** The folder of the bundled model and its codebooks. */
export function bundledFolder(): string {
  return join(dirname(bundledModel()));
}
