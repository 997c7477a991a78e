/**
 * The command: parses arguments and calls the public surface only.
 *
 * @module
 */
import { UsageError } from "./args.ts";

const HELP = `commvq runs a LLaMA on WebGPU with its key/value cache at one or two bits an element.

usage: deno run -A mod.ts COMMAND [OPTIONS]

  generate [--model M] [--kv 16|2|1|K,V] [--max-tokens N] [--temperature T] [--json] PROMPT
                    stream text; PROMPT '-' reads standard input, --prompt-file F a file
  train --text F... --out C [--bits 1|2] [--values codebook|encoder] [--resume]
                    train codebooks for a model on text like its use
  eval [--kv N] [--text F...] [--tasks F] [--baselines A,B] [--quick] [--out DIR]
                    measure what compression does to a model
  inspect FILE      what a model, codebook or saved cache holds

'COMMAND --help' lists every option.`;

type Command = (args: string[]) => Promise<void>;

const COMMANDS: Record<string, () => Promise<Command>> = {
  generate: async () => (await import("./generate.ts")).generate,
  train: async () => (await import("./train.ts")).train,
  eval: async () => (await import("./eval.ts")).evaluateCommand,
  inspect: async () => (await import("./inspect.ts")).inspect,
};

/** Runs a command and gives its exit status: 0, 2 for unusable arguments, 1 for a failure. */
export async function main(args: string[]): Promise<number> {
  const [name, ...rest] = args;
  if (name === undefined || name === "help" || name === "--help" || name === "-h") {
    (name === undefined ? console.error : console.log)(HELP);
    return name === undefined ? 2 : 0;
  }
  try {
    if (!Object.hasOwn(COMMANDS, name)) {
      throw new UsageError(`Cannot run '${name}': the commands are ${Object.keys(COMMANDS).join(", ")}`);
    }
    await (await COMMANDS[name]!())(rest);
    return 0;
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    console.error(error.message);
    return error instanceof UsageError || error instanceof RangeError ? 2 : 1; // the library's RangeError: a wrong value
  }
}
