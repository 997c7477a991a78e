/**
 * A model's files as one thing: its settings, its tensors, and what its tokenizer is made of.
 *
 * @module
 */
import { basename, fromFileUrl } from "@std/path";
import { FileFormatError, UnsupportedModelError } from "../core/errors.ts";
import type { WeightType } from "../core/model.ts";
import { type GgufValue, readGguf } from "./gguf.ts";
import { isObject, MAX_JSON, parseObject } from "./json.ts";
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

/** Says which of several weight files has which tensor. */
const INDEX = "model.safetensors.index.json";
/** Bytes of a piece in which tensors are read. */
const PIECE = 4 * 2 ** 20;

/** Opens a `.gguf` file or a Hugging Face folder, by path or URL. */
export async function openModel(location: string | URL): Promise<ModelFiles> {
  const url = asUrl(location);
  if (/\.gguf$/i.test(url?.pathname ?? String(location))) return await openGguf(location);
  if (url && url.protocol !== "file:") {
    const base = new URL(url.pathname.replace(/\/?$/, "/"), url);
    return await openFolder(basename(url.pathname), (file) => new URL(file, base));
  }
  const folder = url ? fromFileUrl(url) : String(location);
  const found = await Deno.stat(folder).catch(() => undefined); // what is not there is told below
  if (found?.isFile) {
    throw new FileFormatError(`Cannot open ${folder} as a model: give a .gguf file or a folder with config.json`);
  }
  return await openFolder(basename(folder), (file) => `${folder}/${file}`, folder);
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

/** Opens what `locate` finds; `folder` where it is a local one, which can be listed. */
async function openFolder(name: string, locate: Locate, folder?: string): Promise<ModelFiles> {
  const config = await readObject(locate("config.json")), template = locate("chat_template.jinja");
  const tokenizer: TokenizerFiles = {
    kind: "hf",
    tokenizerJson: await readObject(locate("tokenizer.json")),
    tokenizerConfig: await optional(readObject(locate("tokenizer_config.json"))),
    generationConfig: await optional(readObject(locate("generation_config.json"))),
    chatTemplate: await optional(readSmall(template).then((bytes) => new TextDecoder().decode(bytes))),
  };
  using sources = new DisposableStack();
  const tensors = new Map<string, TensorFile>();
  const index = await optional(readObject(locate(INDEX))), places = index && placesOf(index);
  for (const file of places ? new Set(places.values()) : weightFiles(name, folder)) {
    const source = sources.use(await openSource(locate(file)));
    for (const entry of (await readSafetensors(source)).tensors.values()) {
      if (tensors.has(entry.name)) {
        throw new FileFormatError(`Cannot read ${name} as '${entry.name}' is in two of its files`);
      }
      tensors.set(entry.name, { ...entry, type: weightType(source.name, entry), source });
    }
  }
  for (const [tensor, file] of places ?? []) {
    if (tensors.get(tensor)?.source.name === file) continue;
    throw new FileFormatError(`Cannot read ${name} as ${INDEX} has '${tensor}' in ${file}, where it is not`);
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

async function optional<T>(file: Promise<T>): Promise<T | undefined> {
  try {
    return await file;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

function weightType(file: string, { name, dtype }: SafetensorsEntry): WeightType {
  if (dtype === "F32" || dtype === "F16" || dtype === "BF16") return dtype;
  throw new UnsupportedModelError(
    `Cannot use ${file} as '${name}' is of type ${dtype}: supported are F32, F16 and BF16`,
  );
}

/** The file of each tensor. */
function placesOf({ weight_map: map }: Record<string, unknown>): Map<string, string> {
  if (!isObject(map)) throw new FileFormatError(`Cannot read ${INDEX} as it has no weight_map: get an undamaged copy`);
  return new Map(
    Object.entries(map).map(([tensor, file]) => {
      // A name is joined to the folder: one that climbs out of it is hostile.
      if (typeof file === "string" && /^[\w.-]+\.safetensors$/.test(file)) return [tensor, file];
      throw new FileFormatError(`Cannot read ${INDEX} as its weight_map must name .safetensors files beside it`);
    }),
  );
}

/** Names of the weight files of a folder that has no index. */
function weightFiles(name: string, folder?: string): string[] {
  const whole = "model.safetensors";
  if (folder === undefined) return [whole];
  const files = [...Deno.readDirSync(folder)].map((entry) => entry.name).filter((f) => f.endsWith(".safetensors"));
  if (files.length > 0) return files.includes(whole) ? [whole] : files.sort();
  throw new Deno.errors.NotFound(
    `Cannot open ${name} as it has no .safetensors file: give such a folder or a .gguf file`,
  );
}

/** A file that is read whole. */
async function readSmall(location: string | URL): Promise<Uint8Array<ArrayBuffer>> {
  using source = await openSource(location);
  if (source.size <= MAX_JSON) return await source.read(0, source.size);
  throw new FileFormatError(
    `Cannot read ${source.name} as it must have at most ${MAX_JSON} bytes: it has ${source.size}`,
  );
}

async function readObject(location: string | URL): Promise<Record<string, unknown>> {
  return parseObject(await readSmall(location), basename(String(location)));
}

/** The buffer of the last reading that ended, for the next one. */
let spare: Uint8Array<ArrayBuffer> | undefined;

/**
 * Reads a matrix in pieces of some MiB, each a multiple of `unit` whole rows from `row` on. A piece holds until the next
 * one is asked for: they share a buffer.
 */
export async function* readRows(
  tensor: TensorFile,
  unit = 1,
): AsyncGenerator<{ row: number; bytes: Uint8Array<ArrayBuffer> }> {
  const all = tensor.shape[0]!, rowBytes = tensor.byteLength / all;
  const rows = unit * Math.max(1, Math.floor(PIECE / (rowBytes * unit))), most = rows * rowBytes;
  const buffer = most <= PIECE && spare ? spare : new Uint8Array(Math.max(PIECE, most));
  spare = undefined; // another reading meanwhile takes its own
  try {
    for (let row = 0; row < all; row += rows) {
      const bytes = buffer.subarray(0, Math.min(rows, all - row) * rowBytes);
      await tensor.source.readInto(tensor.offset + row * rowBytes, bytes);
      yield { row, bytes };
    }
  } finally {
    if (buffer.length === PIECE) spare = buffer;
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
