/**
 * WGSL composition: the two directives of `wgsl/`, `#import part` and `// @param`.
 *
 * A kernel is its own file after the parts that it imports, each once, depth first. `// @param` on a `const` or
 * `alias` line lets the host replace its value; on an `#import` line it names a choice between parts that define the
 * same functions. Where subgroups are granted, a part with a `_subgroup` twin is replaced by it.
 *
 * @module
 */

/** Files of `wgsl/`, without their ending: kernels by stem, parts by `parts/stem`. */
export type Sources = Readonly<Record<string, string>>;

/** The value of a `@param`: a number or boolean for a `const`, a type or part name for an `alias` or `#import`. */
export type Constant = number | boolean | string;

/** Composed text, and where each of its lines comes from. */
export interface Composed {
  readonly text: string;
  /** `wgsl/<file>:<line>` of the composed text's line, counted from 0. */
  origin(line: number): string;
}

/** How a kernel binds something. Its own fields are the uniform of binding 0, `params`. */
export type Access = "read" | "write" | "uniform" | "texels";

/** A binding of a composed text. */
export interface Binding {
  readonly name: string;
  readonly binding: number;
  readonly access: Access;
  /** Of texels. */
  readonly format?: "rgba32uint" | "r32uint";
}

const IMPORT = /^#import (\w+)(?:\s*\/\/ @param (\w+).*)?$/;
const PARAM = /^(const|alias) (\w+)(?:: (\w+))? = ([^;]+); *\/\/ @param\b/;

const BINDING =
  /^@group\(0\) @binding\((\d+)\) var(?:<(uniform|storage|storage, read|storage, read_write)>)? (\w+): ([^;]+);/;
const TEXELS = /^texture_storage_2d<(rgba32uint|r32uint), read>$/;

/** The bindings of a composed kernel, in the order of the text. Throws `TypeError` for one of another kind. */
export function bindingsOf(text: string): Binding[] {
  return text.split("\n").filter((line) => line.startsWith("@group")).map((line) => {
    const [, binding, space, name, type = ""] = BINDING.exec(line) ?? [], [, format] = TEXELS.exec(type) ?? [];
    if (!name || !space && !format) throw new TypeError(`Cannot read the binding '${line}'`);
    const access = space === "uniform" ? space : format ? "texels" : space === "storage, read_write" ? "write" : "read";
    return { name, binding: Number(binding), access, ...(format && { format: format as Binding["format"] }) };
  });
}

/** Everything that `// @param` lets the host replace in a kernel and its default parts, with its default. */
export function paramsOf(sources: Sources, kernel: string): Record<string, Constant> {
  const params: Record<string, Constant> = {};
  walk(sources, kernel, {}, false, (line) => {
    const [, kind, name, type, value] = PARAM.exec(line) ?? [];
    if (name) params[name] = kind === "alias" ? value! : type === "bool" ? value === "true" : Number.parseFloat(value!);
    const [, part, choice] = IMPORT.exec(line) ?? [];
    if (choice) params[choice] = part!;
  });
  return params;
}

/** Composes a kernel with its constants replaced. Throws `TypeError` for a constant that the kernel lacks. */
export function compose(
  sources: Sources,
  kernel: string,
  constants: Readonly<Record<string, Constant>> = {},
  subgroups = false,
): Composed {
  const lines: string[] = [], origins: string[] = [], unused = new Set(Object.keys(constants));
  walk(sources, kernel, constants, subgroups, (line, file, number) => {
    const choice = IMPORT.exec(line)?.[2];
    if (choice) unused.delete(choice);
    if (line.startsWith("#import")) return;
    const [, kind, name, type] = PARAM.exec(line) ?? [];
    if (name) unused.delete(name);
    const value = name === undefined ? undefined : constants[name];
    lines.push(value === undefined ? line : `${kind} ${name}${type ? `: ${type}` : ""} = ${literal(value, type)};`);
    origins.push(`wgsl/${file}.wgsl:${number}`);
  });
  if (unused.size > 0) {
    throw new TypeError(`Cannot compose ${kernel} as it has no @param '${[...unused].join("', '")}'`);
  }
  if (lines.some((line) => /\bf16\b/.test(line.replace(/\/\/.*/, "")))) {
    lines.unshift("enable f16;");
    origins.unshift(`wgsl/${kernel}.wgsl:0`);
  }
  return { text: lines.join("\n"), origin: (line) => origins[line] ?? `wgsl/${kernel}.wgsl` };
}

function walk(
  sources: Sources,
  kernel: string,
  constants: Readonly<Record<string, Constant>>,
  subgroups: boolean,
  visit: (line: string, file: string, number: number) => void,
): void {
  const seen = new Set<string>();
  const include = (file: string): void => {
    if (seen.has(file)) return;
    seen.add(file);
    const text = sources[file];
    if (text === undefined) throw new TypeError(`Cannot compose ${kernel} as wgsl/${file}.wgsl does not exist`);
    text.split("\n").forEach((line, i) => {
      const [, part, choice] = IMPORT.exec(line) ?? [];
      if (part) {
        const chosen = `parts/${choice && constants[choice] || part}`;
        include(subgroups && `${chosen}_subgroup` in sources ? `${chosen}_subgroup` : chosen);
      }
      visit(line, file, i + 1);
    });
  };
  include(kernel);
}

function literal(value: Constant, type: string | undefined): string {
  if (typeof value === "string" || typeof value === "boolean") return String(value);
  if (type === "f32") return Number.isInteger(value) ? `${value}.0f` : `${value}f`;
  return type === "i32" ? `${value}i` : `${value}u`;
}
