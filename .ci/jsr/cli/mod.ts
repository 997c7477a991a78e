/**
 * Stand-in for JSR's @std/cli in a checkout with no access to JSR: `parseArgs` for the options the project uses
 * (`string`, `boolean`, `collect`, `alias`, `default`, `stopEarly`, `unknown`), over `node:util`.
 */
import { parseArgs as nodeParseArgs } from "node:util";

export interface ParseOptions {
  string?: readonly string[];
  boolean?: readonly string[];
  collect?: readonly string[];
  alias?: Record<string, string>;
  default?: Record<string, unknown>;
  unknown?: (arg: string, key?: string, value?: unknown) => unknown;
}

/** What `parseArgs` gives: options by name, positional arguments under `_`. */
export type Parsed = { _: (string | number)[] } & {
  // deno-lint-ignore no-explicit-any -- the original's type is computed from the options; callers narrow it
  [name: string]: any;
};

/** Parses flags into an object with positional arguments under `_`, as @std/cli does. */
export function parseArgs(
  args: string[],
  options: ParseOptions = {},
): Parsed {
  const { string = [], boolean = [], collect = [], alias = {}, default: defaults = {}, unknown } = options;
  const canonical = new Map(Object.entries(alias).map(([name, other]) => [other, name]));
  const { tokens } = nodeParseArgs({
    args,
    strict: false,
    tokens: true,
    options: Object.fromEntries([
      ...string.map((name) => [name, { type: "string" as const }]),
      ...boolean.map((name) => [name, { type: "boolean" as const }]),
    ]),
  });
  const out: Parsed = { _: [] };
  for (const name of boolean) out[name] = defaults[name] ?? false;
  for (const [name, value] of Object.entries(defaults)) out[name] = value;
  for (const token of tokens) {
    if (token.kind === "positional") out._.push(token.value);
    if (token.kind !== "option") continue;
    const name = canonical.get(token.name) ?? token.name;
    const known = string.includes(name) || boolean.includes(name);
    if (!known && unknown && unknown(token.rawName, token.name, token.value) === false) continue;
    const value = boolean.includes(name) ? token.value !== "false" : token.value ?? (string.includes(name) ? "" : true);
    if (collect.includes(name)) (out[name] ??= []).push(value);
    else out[name] = value;
  }
  for (const name of collect) out[name] ??= [];
  return out;
}
