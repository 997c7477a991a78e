import { parseArgs } from "@std/cli";

/** Arguments that cannot be used: exit status 2. */
export class UsageError extends Error {
  override name = "UsageError";
}

/** What a command accepts. */
export interface Options {
  /** Options with a value; those in `many` may be repeated. */
  readonly values: readonly string[];
  readonly flags?: readonly string[];
  readonly many?: readonly string[];
}

/** A command's arguments, read by kind; what is unknown or of the wrong kind is a {@linkcode UsageError}. */
export class Args {
  readonly rest: readonly string[];
  readonly #options: Record<string, unknown>;

  constructor(readonly command: string, args: readonly string[], { values, flags = [], many = [] }: Options) {
    const parsed = parseArgs([...args], {
      string: [...values, ...many, "_"],
      boolean: [...flags],
      collect: [...many],
      unknown: (arg: string, key?: string) => {
        if (key === undefined) return true;
        const known = [...values, ...many, ...flags].map((name) => `--${name}`).join(" ");
        throw new UsageError(`Cannot use ${arg} with '${command}': it takes ${known}`);
      },
    });
    this.#options = parsed;
    this.rest = parsed._.map(String);
    for (const name of [...values, ...many]) {
      if ([parsed[name]].flat().includes("")) throw new UsageError(`Cannot use --${name} without a value`);
    }
  }

  has(name: string): boolean {
    return this.#options[name] !== undefined;
  }

  flag(name: string): boolean {
    return this.#options[name] === true;
  }

  string(name: string): string | undefined {
    return this.#options[name] as string | undefined;
  }

  list(name: string): string[] {
    return (this.#options[name] as string[] | undefined) ?? [];
  }

  required(name: string, what: string): string {
    const value = this.string(name);
    if (value === undefined) throw new UsageError(`Cannot run '${this.command}' without --${name} ${what}`);
    return value;
  }

  /** A finite number in `[least, most]`. */
  number(name: string, least: number, most = Number.MAX_VALUE): number | undefined {
    const text = this.string(name);
    if (text === undefined) return undefined;
    const value = Number(text);
    if (text.trim() === "" || !(value >= least && value <= most)) {
      const range = most === Number.MAX_VALUE || most === Number.MAX_SAFE_INTEGER
        ? `a number of at least ${least}`
        : `a number from ${least} to ${most}`;
      throw new UsageError(`Cannot use --${name} ${text}: it must be ${range}`);
    }
    return value;
  }

  /** A whole number in `[least, most]`. */
  integer(name: string, least: number, most = Number.MAX_SAFE_INTEGER): number | undefined {
    const value = this.number(name, least, most);
    if (value !== undefined && !Number.isInteger(value)) {
      throw new UsageError(`Cannot use --${name} ${value}: it must be a whole number`);
    }
    return value;
  }
}
