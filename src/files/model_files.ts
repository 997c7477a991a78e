/**
 * A model's files as one thing: its settings, its tensors, and what its tokenizer is made of.
 *
 * @module
 */
import { basename, dirname } from "@std/path";
import { FileFormatError, UnsupportedModelError } from "../core/errors.ts";
import type { WeightType } from "../core/model.ts";
import { type GgufValue, readGguf } from "./gguf.ts";
import { readSafetensors, type SafetensorsEntry } from "./safetensors.ts";
import { asUrl, type ByteSource, openSource } from "./source.ts";

/** A tensor in a file. */
export interface TensorFile {
  readonly name: string;
  readonly type: WeightType;
  /** Outermost first: `[rows, columns]`. */
  readonly shape: readonly number[];
  readonly byteLength: number;
  readonly source: ByteSource;
  /** Of the first byte in the source. */
  readonly offset: number;
}

/** What a tokenizer is made of. */
export type TokenizerFiles =
  | {
    readonly kind: "hf";
    readonly tokenizerJson: object;
    readonly tokenizerConfig?: object;
    readonly generationConfig?: object;
    readonly chatTemplate?: string;
  }
  | { readonly kind: "gguf"; readonly metadata: Map<string, GgufValue> };

/** A model's files, open. Dispose it to close them. */
export interface ModelFiles extends Disposable {
  /** Name of the file or folder. */
  readonly name: string;
  readonly kind: "gguf" | "hf";
  /** GGUF's metadata or `config.json`, by key. */
  readonly config: ReadonlyMap<string, unknown>;
  readonly tensors: ReadonlyMap<string, TensorFile>;
  readonly tokenizer: TokenizerFiles;
}

/** Bytes of a piece in which tensors are read. */
const PIECE = 4 * 2 ** 20;
/** `tokenizer.json` of a vocabulary of 256,000 is some 30 MB. */
const MAX_JSON = 128 * 2 ** 20;

/** Opens a `.gguf` file or a Hugging Face folder, by path or URL. */
export async function openModel(location: string | URL): Promise<ModelFiles> {
  const text = String(location);
  if (/\.gguf$/i.test(text.replace(/[?#].*$/, ""))) return await openGguf(location);
  const url = asUrl(location);
  const base = url ? new URL(text.endsWith("/") ? text : `${text}/`) : undefined;
  if (!base && Deno.statSync(text).isFile) {
    throw new FileFormatError(
      `Cannot open ${basename(text)} as a model: give a .gguf file or a folder with config.json`,
    );
  }
  return await openFolder(basename(text.replace(/\/$/, "")), (file) => base ? new URL(file, base) : `${text}/${file}`);
}

async function openGguf(location: string | URL): Promise<ModelFiles> {
  const source = await openSource(location);
  try {
    const { metadata, tensors } = await readGguf(source);
    return {
      name: source.name,
      kind: "gguf",
      config: metadata,
      tensors: new Map([...tensors.values()].map((tensor) => [tensor.name, { ...tensor, source }])),
      tokenizer: { kind: "gguf", metadata },
      [Symbol.dispose]: () => source[Symbol.dispose](),
    };
  } catch (error) {
    source[Symbol.dispose]();
    throw error;
  }
}

type Locate = (file: string) => string | URL;

async function openFolder(name: string, locate: Locate): Promise<ModelFiles> {
  const config = await readJson(locate("config.json")), tokenizerJson = await readJson(locate("tokenizer.json"));
  const optional = async (file: string): Promise<object | undefined> => {
    try {
      return await readJson(locate(file));
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return undefined;
      throw error;
    }
  };
  const chatTemplate = await readText(locate("chat_template.jinja")).catch((error) => {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  });
  const tokenizer: TokenizerFiles = {
    kind: "hf",
    tokenizerJson,
    tokenizerConfig: await optional("tokenizer_config.json"),
    generationConfig: await optional("generation_config.json"),
    chatTemplate,
  };
  using sources = new DisposableStack();
  const tensors = new Map<string, TensorFile>();
  for (const file of await weightFiles(locate)) {
    const source = sources.use(await openSource(locate(file)));
    for (const entry of (await readSafetensors(source)).tensors.values()) {
      if (tensors.has(entry.name)) {
        throw new FileFormatError(`Cannot read ${name} as '${entry.name}' is in two of its files`);
      }
      tensors.set(entry.name, { ...entry, type: weightType(source.name, entry), source });
    }
  }
  const owned = sources.move();
  return {
    name,
    kind: "hf",
    config: new Map(Object.entries(config)),
    tensors,
    tokenizer,
    [Symbol.dispose]: () => owned.dispose(),
  };
}

/** A weight's type; types that no weight has are kept and refused only if the weight is used. */
function weightType(file: string, { name, dtype }: SafetensorsEntry): WeightType {
  if (dtype === "F32" || dtype === "F16" || dtype === "BF16") return dtype;
  throw new UnsupportedModelError(
    `Cannot use ${file} as '${name}' is of type ${dtype}: supported are F32, F16 and BF16`,
  );
}

/** Names of a folder's weight files. */
async function weightFiles(locate: Locate): Promise<string[]> {
  let index: Record<string, unknown>;
  try {
    index = await readJson(locate("model.safetensors.index.json"));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return ["model.safetensors"];
    throw error;
  }
  const map = index.weight_map;
  if (typeof map !== "object" || map === null) {
    throw new FileFormatError("Cannot read model.safetensors.index.json as it has no weight_map");
  }
  const files = [...new Set(Object.values(map))];
  // A name is joined to the folder: one that climbs out of it is hostile.
  if (files.length === 0 || !files.every((file) => typeof file === "string" && /^[\w.-]+\.safetensors$/.test(file))) {
    throw new FileFormatError(
      "Cannot read model.safetensors.index.json as its weight_map must name .safetensors files beside it",
    );
  }
  return files as string[];
}

async function readText(location: string | URL): Promise<string> {
  using source = await openSource(location);
  if (source.size > MAX_JSON) {
    throw new FileFormatError(
      `Cannot read ${source.name} as it must have at most ${MAX_JSON} bytes: it has ${source.size}`,
    );
  }
  return new TextDecoder().decode(await source.read(0, source.size));
}

async function readJson(location: string | URL): Promise<Record<string, unknown>> {
  const text = await readText(location), name = basename(String(location));
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new FileFormatError(`Cannot read ${name} as it is not JSON: get an undamaged copy`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new FileFormatError(`Cannot read ${name} as it must hold an object`);
  }
  return value as Record<string, unknown>;
}

/** Reads a matrix in pieces of some MiB, each a multiple of `unit` whole rows from `row` on. */
export async function* readRows(
  tensor: TensorFile,
  unit = 1,
): AsyncGenerator<{ row: number; bytes: Uint8Array<ArrayBuffer> }> {
  const rowBytes = tensor.byteLength / tensor.shape[0]!,
    rows = unit * Math.max(1, Math.floor(PIECE / (rowBytes * unit)));
  for (let row = 0; row < tensor.shape[0]!; row += rows) {
    const count = Math.min(rows, tensor.shape[0]! - row);
    yield { row, bytes: await tensor.source.read(tensor.offset + row * rowBytes, count * rowBytes) };
  }
}

/** A whole tensor of numbers as f32, for small ones: norms and rotary factors. */
export async function readFloats({ name, type, source, offset, byteLength }: TensorFile): Promise<Float32Array> {
  const bytes = await source.read(offset, byteLength);
  if (type === "F32") return new Float32Array(bytes.buffer);
  if (type === "BF16") {
    return new Float32Array(Uint32Array.from(new Uint16Array(bytes.buffer), (half) => half << 16).buffer);
  }
  if (type === "F16") return Float32Array.from(new Float16Array(bytes.buffer));
  throw new UnsupportedModelError(`Cannot use '${name}' as it must be of type F32, F16 or BF16: it is ${type}`);
}

/** A hash of a model's tensors: names, types, shapes and a sample of bytes of each. Equal weights give equal hashes. */
export async function fingerprint({ tensors }: ModelFiles): Promise<string> {
  const parts: Uint8Array[] = [], encoder = new TextEncoder();
  for (
    const { name, type, shape, source, offset, byteLength } of [...tensors.values()].toSorted((a, b) =>
      a.name < b.name ? -1 : 1
    )
  ) {
    parts.push(
      encoder.encode(`${name} ${type} ${shape}\n`),
      await source.read(offset + (byteLength >> 1), Math.min(64, byteLength >> 1)),
    );
  }
  const digest = await crypto.subtle.digest("SHA-256", await new Blob(parts as BlobPart[]).arrayBuffer());
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The folder that a model's path or URL lies in, or that it is. */
export function modelFolder(location: string): string {
  return /\.gguf$/i.test(location) ? dirname(location) : location;
}
