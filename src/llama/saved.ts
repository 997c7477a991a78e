/**
 * Saved caches: safetensors that say which model, codebook and settings they are of.
 *
 * `tokens U32 [T]` are the ids. An exact cache has, for every layer and side (`layers.l.keys`, `layers.l.values`), its
 * numbers `.exact F16 [K][T][D]`, keys as RoPE turned them. A compressed one has packed codes of keys before RoPE and of
 * values, `.codes U32 [blocks][K][bits]` (core/pack.ts), their scales `.scales F16 [blocks · 32]`, and `.exact` for its
 * sinks and window only; in tiers also `.index U32 [blocks][K][2]` and `.further U32 [K][blocks][bits]`, further codes of as
 * many tokens as the cache had room for. The tokens at positions 0 to T - 1 are, in order, the sinks, the `runs` of codes, each of which
 * begins a block, and the window.
 *
 * @module
 */
import type { CacheLayout, KvCache } from "../attention/kv_cache.ts";
import { FileFormatError } from "../core/errors.ts";
import { readSafetensors, type Safetensors, writeSafetensors } from "../files/safetensors.ts";
import { type ByteSource, openSource } from "../files/source.ts";

const FORMAT = "commvq-cache", VERSION = "2";

/** What has to be the same where a cache is saved and where it is restored. */
export interface CacheKind {
  /** Fingerprint of the model. */
  readonly model: string;
  /** Bits an element of keys and of values: "1,1". */
  readonly bits: string;
  /** Digest of the codebook's words in use; empty for an exact cache, as are the next. */
  readonly codebook: string;
  /** Newest tokens kept exact. */
  readonly window: string;
  /** First tokens kept exact. */
  readonly sinks: string;
}

/** Names of a {@linkcode CacheKind}'s parts in messages, and what to do where one differs. */
const KIND: Readonly<Record<keyof CacheKind, readonly [string, string]>> = {
  model: ["model's fingerprint", "Use the model that it was saved from"],
  bits: ["bits of keys and values", "Load with these kv bits"],
  codebook: ["codebook's digest", "Load with the codebook that it was saved with"],
  window: ["window", "Load with this window"],
  sinks: ["number of sinks", "Load with as many sinks"],
};

/** A saved cache, open. Dispose it to close the file. */
export interface SavedCache extends Disposable {
  readonly kind: CacheKind;
  readonly tokens: readonly number[];
  readonly layout: CacheLayout;
  readonly source: ByteSource;
  readonly file: Safetensors;
  /** Bytes of an array. */
  read(name: string): Promise<ArrayBuffer>;
}

/** Writes a cache in one step: an interruption leaves the old file or the new one. */
export async function writeCache(
  path: string,
  kind: CacheKind,
  tokens: readonly number[],
  cache: KvCache,
): Promise<void> {
  const layout = cache.layout(), arrays = cache.arrays(layout).map((array) => [array.name, array] as const);
  const ids = { dtype: "U32", shape: [tokens.length], data: Uint32Array.from(tokens) } as const;
  const { runs, start } = layout, metadata = { ...kind, layout: JSON.stringify({ runs, start }) };
  await writeSafetensors(path, { tokens: ids, ...Object.fromEntries(arrays) }, {
    format: FORMAT,
    version: VERSION,
    ...metadata,
  });
}

/** Opens a saved cache of any model. Throws `FileFormatError` for any other file. */
export async function openCache(location: string | URL): Promise<SavedCache> {
  const source = await openSource(location);
  try {
    const file = await readSafetensors(source), { metadata } = file;
    expect(source.name, "its format", FORMAT, metadata.format);
    expect(source.name, "its version", VERSION, metadata.version, "Use the module that wrote it");
    const { model = "", bits = "", codebook = "", window = "", sinks = "" } = metadata;
    const read = async (name: string): Promise<ArrayBuffer> => {
      const { offset, byteLength } = file.tensors.get(name)!;
      return (await source.read(offset, byteLength)).buffer;
    };
    const ids = file.tensors.get("tokens"), length = ids?.shape[0] ?? 0;
    expect(source.name, "'tokens'", `U32 [${length}]`, ids && `${ids.dtype} [${ids.shape}]`);
    const tokens = [...new Uint32Array(await read("tokens"))], layout = layoutOf(source.name, metadata, length);
    return {
      kind: { model, bits, codebook, window, sinks },
      ...{ tokens, layout, source, file, read },
      [Symbol.dispose]: () => source[Symbol.dispose](),
    };
  } catch (error) {
    source[Symbol.dispose]();
    throw error;
  }
}

/** Throws `FileFormatError`, by name and reason, unless a saved cache is of a kind and its arrays are those of a cache. */
export function expectKind({ source: { name }, file, layout, ...saved }: SavedCache, kind: CacheKind, cache: KvCache) {
  for (const key of Object.keys(KIND) as (keyof CacheKind)[]) {
    const [what, advice] = KIND[key];
    expect(
      name,
      `its ${what}`,
      kind[key] || "that of an exact cache",
      saved.kind[key] || "that of an exact cache",
      advice,
    );
  }
  if (layout.length > cache.capacity) {
    throw new RangeError(
      `Cannot use ${name} as its ${layout.length} tokens are more than the ${cache.capacity} of the context: load with a larger maxContext`,
    );
  }
  if (!cache.holds(layout)) throw damaged(name);
  for (const { name: array, dtype, shape, mostRows } of cache.arrays(layout)) {
    const found = file.tensors.get(array), rows = found?.shape[1];
    const wanted = rows && mostRows && rows <= mostRows ? shape.with(1, rows) : shape;
    expect(name, `'${array}'`, `${dtype} [${wanted}]`, found && `${found.dtype} [${found.shape}]`);
  }
}

function expect(name: string, what: string, wanted: string, found = "missing", advice = ""): void {
  if (wanted === found) return;
  throw new FileFormatError(
    `Cannot use ${name} as a saved cache as ${what} must be ${wanted}: it is ${found}${advice && `. ${advice}`}`,
  );
}

function damaged(name: string): FileFormatError {
  return new FileFormatError(`Cannot use ${name} as a saved cache as its layout is damaged: get an undamaged copy`);
}

function layoutOf(name: string, { layout = "" }: Safetensors["metadata"], length: number): CacheLayout {
  let runs: unknown, start: unknown;
  try {
    ({ runs, start } = JSON.parse(layout));
  } catch {
    throw damaged(name);
  }
  const isCount = (value: unknown, least: number): boolean => Number.isSafeInteger(value) && Number(value) >= least;
  if (!Array.isArray(runs) || !runs.every((tokens) => isCount(tokens, 1)) || !isCount(start, 0)) throw damaged(name);
  return { length, runs, start: Number(start) };
}
