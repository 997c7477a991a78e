/**
 * GGUF files: the header's metadata and where tensors lie.
 *
 * @module
 */
import { FileFormatError, UnsupportedModelError } from "../core/errors.ts";
import { BLOCKS, type WeightType } from "../core/model.ts";
import type { ByteSource } from "./source.ts";

/** A metadata value: numbers of 64 bits become numbers where they are exact. */
export type GgufValue = string | number | bigint | boolean | readonly GgufValue[];

/** Where a tensor lies. */
export interface GgufTensor {
  readonly name: string;
  readonly type: WeightType;
  /** Outermost first: `[rows, columns]`. */
  readonly shape: readonly number[];
  /** Of the first byte in the file. */
  readonly offset: number;
  readonly byteLength: number;
}

/** What a header says. */
export interface Gguf {
  readonly metadata: Map<string, GgufValue>;
  readonly tensors: Map<string, GgufTensor>;
}

/** Real models have a few hundred tensors and some dozens of keys; these bound what a hostile count can cost. */
const MAX_TENSORS = 65_536, MAX_KEYS = 65_536;
/** ggml's own limits. */
const MAX_NAME = 64, MAX_DIMS = 4;
/** Room for chat templates and long descriptions. */
const MAX_STRING = 16 * 2 ** 20;
/** Of all arrays together: vocabularies reach 256,000 tokens, each with a score, a type and two merges. */
const MAX_ELEMENTS = 4 * 2 ** 20;
/** A header holds the vocabulary and its merges: some 10 MB. */
const MAX_HEADER = 128 * 2 ** 20;
/** Arrays of arrays are allowed by the format and used by nobody. */
const MAX_NESTING = 2;

/** Types of metadata values by the format's numbers; those of one number each are in `SCALARS`. */
const BOOL = 7, STRING = 8, ARRAY = 9;

interface Scalar {
  readonly bytes: number;
  readonly read: (view: DataView, at: number) => number | bigint;
}

const SCALARS: Readonly<Record<number, Scalar>> = {
  0: { bytes: 1, read: (view, at) => view.getUint8(at) },
  1: { bytes: 1, read: (view, at) => view.getInt8(at) },
  2: { bytes: 2, read: (view, at) => view.getUint16(at, true) },
  3: { bytes: 2, read: (view, at) => view.getInt16(at, true) },
  4: { bytes: 4, read: (view, at) => view.getUint32(at, true) },
  5: { bytes: 4, read: (view, at) => view.getInt32(at, true) },
  6: { bytes: 4, read: (view, at) => view.getFloat32(at, true) },
  [BOOL]: { bytes: 1, read: (view, at) => view.getUint8(at) },
  10: { bytes: 8, read: (view, at) => safe(view.getBigUint64(at, true)) },
  11: { bytes: 8, read: (view, at) => safe(view.getBigInt64(at, true)) },
  12: { bytes: 8, read: (view, at) => view.getFloat64(at, true) },
};

const TYPES: Readonly<Record<number, WeightType>> = {
  0: "F32",
  1: "F16",
  2: "Q4_0",
  8: "Q8_0",
  12: "Q4_K",
  14: "Q6_K",
  30: "BF16",
};

/** Names for messages about types that are not supported. */
const OTHER_TYPES: Readonly<Record<number, string>> = {
  3: "Q4_1",
  6: "Q5_0",
  7: "Q5_1",
  9: "Q8_1",
  10: "Q2_K",
  11: "Q3_K",
  13: "Q5_K",
  15: "Q8_K",
  16: "IQ2_XXS",
  17: "IQ2_XS",
  18: "IQ3_XXS",
  19: "IQ1_S",
  20: "IQ4_NL",
  21: "IQ3_S",
  22: "IQ2_S",
  23: "IQ4_XS",
  24: "I8",
  25: "I16",
  26: "I32",
  27: "I64",
  28: "F64",
  29: "IQ1_M",
  34: "TQ1_0",
  35: "TQ2_0",
  39: "MXFP4",
};

/** Reads and checks a header. Throws `FileFormatError` or `UnsupportedModelError` for what it cannot use. */
export async function readGguf(source: ByteSource): Promise<Gguf> {
  const reader = new Reader(source);
  if (source.size < 24 || await reader.u32() !== 0x46554747) throw reader.error("it does not begin with 'GGUF'");
  const version = await reader.u32();
  if (version !== 2 && version !== 3) throw reader.error(`its version must be 2 or 3: it is ${version}`);
  const tensorCount = await reader.count("tensors", MAX_TENSORS),
    keyCount = await reader.count("metadata keys", MAX_KEYS);
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < keyCount; i++) {
    const key = await reader.string("a metadata key", 65_535);
    if (metadata.has(key)) throw reader.error(`the metadata key '${key}' appears twice`);
    metadata.set(key, await reader.value(await reader.u32(), key, 0));
  }
  const entries: { name: string; typeId: number; dims: number[]; offset: number }[] = [], names = new Set<string>();
  for (let i = 0; i < tensorCount; i++) {
    const name = await reader.string("a tensor's name", MAX_NAME), rank = await reader.u32();
    if (names.has(name)) throw reader.error(`the tensor '${name}' appears twice`);
    names.add(name);
    if (rank < 1 || rank > MAX_DIMS) {
      throw reader.error(`'${name}' must have 1 to ${MAX_DIMS} dimensions: it has ${rank}`);
    }
    const dims: number[] = [];
    for (let d = 0; d < rank; d++) dims.push(await reader.count(`elements of '${name}'`, 2 ** 40));
    entries.push({
      name,
      dims,
      typeId: await reader.u32(),
      offset: await reader.count(`offset bytes of '${name}'`, source.size),
    });
  }
  const alignment = metadata.get("general.alignment") ?? 32;
  if (typeof alignment !== "number" || !(alignment >= 8 && alignment <= 65_536) || Math.log2(alignment) % 1 !== 0) {
    throw reader.error(`general.alignment must be a power of two from 8 to 65536: it is ${alignment}`);
  }
  const base = Math.ceil(reader.at / alignment) * alignment, tensors = new Map<string, GgufTensor>();
  for (const { name, typeId, dims, offset } of entries) {
    const type = TYPES[typeId];
    if (!type) {
      const told = OTHER_TYPES[typeId];
      if (!told) throw reader.error(`'${name}' has an unknown type: ${typeId}`);
      throw new UnsupportedModelError(
        `Cannot use ${source.name} as '${name}' is of type ${told}: supported are ${Object.keys(BLOCKS).join(", ")}`,
      );
    }
    const { weights, bytes } = BLOCKS[type], shape = dims.toReversed(), count = dims.reduce((a, b) => a * b, 1);
    if (!Number.isSafeInteger(count) || count === 0 || dims[0]! % weights !== 0) {
      throw reader.error(`'${name}' of shape [${shape}] does not fill whole blocks of ${weights} ${type} weights`);
    }
    const byteLength = count / weights * bytes;
    if (offset % alignment !== 0) {
      throw reader.error(`'${name}' must lie at a multiple of ${alignment}: it is at ${offset}`);
    }
    if (base + offset + byteLength > source.size) {
      throw reader.error(
        `'${name}' points past its end: it needs ${base + offset + byteLength} bytes and the file has ${source.size}`,
      );
    }
    tensors.set(name, { name, type, shape, offset: base + offset, byteLength });
  }
  expectDisjoint(source.name, [...tensors.values()]);
  return { metadata, tensors };
}

/** Throws `FileFormatError` where two ranges of a file overlap. */
export function expectDisjoint(
  file: string,
  ranges: readonly { name: string; offset: number; byteLength: number }[],
): void {
  const sorted = ranges.toSorted((a, b) => a.offset - b.offset);
  for (let i = 1; i < sorted.length; i++) {
    const before = sorted[i - 1]!, here = sorted[i]!;
    if (before.offset + before.byteLength > here.offset) {
      throw new FileFormatError(
        `Cannot read ${file} as '${before.name}' and '${here.name}' overlap: get an undamaged copy`,
      );
    }
  }
}

/** Reads little-endian values in order, in pieces of a MiB. */
class Reader {
  at = 0;
  #view = new DataView(new ArrayBuffer(0));
  #start = 0;
  #elements = 0;
  /** A token may be a byte order mark, which decoders drop unless told not to. */
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  constructor(readonly source: ByteSource) {}

  error(what: string): FileFormatError {
    return new FileFormatError(`Cannot read ${this.source.name} as ${what}: get an undamaged copy`);
  }

  /** A view of the next `length` bytes, and the offset in it. */
  async #next(length: number): Promise<number> {
    const from = this.at - this.#start;
    this.at += length;
    if (from >= 0 && from + length <= this.#view.byteLength) return from;
    if (this.at > this.source.size || this.at > MAX_HEADER) {
      throw this.error(
        this.at > this.source.size ? "its header is cut off" : `its header is longer than ${MAX_HEADER} bytes`,
      );
    }
    this.#start = this.at - length;
    const bytes = await this.source.read(
      this.#start,
      Math.min(Math.max(length, 2 ** 20), this.source.size - this.#start),
    );
    this.#view = new DataView(bytes.buffer);
    return 0;
  }

  async u32(): Promise<number> {
    const at = await this.#next(4);
    return this.#view.getUint32(at, true);
  }

  async u64(): Promise<bigint> {
    const at = await this.#next(8);
    return this.#view.getBigUint64(at, true);
  }

  /** A u64 that counts something and is at most `most`. */
  async count(what: string, most: number): Promise<number> {
    const value = await this.u64();
    if (value > BigInt(most)) throw this.error(`it claims ${value} ${what}, more than ${most}`);
    return Number(value);
  }

  async string(what: string, most = MAX_STRING): Promise<string> {
    const length = await this.count(`bytes of ${what}`, most), at = await this.#next(length);
    return this.#text(at, length);
  }

  /** A string that lies whole in the piece at hand: an `await` for each of 400,000 tokens and merges takes a second. */
  #stringAtHand(): string | undefined {
    const from = this.at - this.#start, end = from + 8;
    if (end > this.#view.byteLength) return undefined;
    const length = Number(this.#view.getBigUint64(from, true));
    if (end + length > this.#view.byteLength) return undefined;
    this.at += 8 + length;
    return this.#text(end, length);
  }

  #text(at: number, length: number): string {
    return this.#decoder.decode(new Uint8Array(this.#view.buffer as ArrayBuffer, at, length));
  }

  async value(type: number, key: string, nesting: number): Promise<GgufValue> {
    if (type === STRING) return await this.string(`'${key}'`);
    if (type === ARRAY) return await this.#array(key, nesting);
    return (await this.#scalars(type, 1, key))[0]!;
  }

  async #scalars(type: number, length: number, key: string): Promise<GgufValue[]> {
    const scalar = SCALARS[type];
    if (!scalar) throw this.error(`'${key}' has an unknown type: ${type}`);
    const at = await this.#next(length * scalar.bytes);
    const values = Array.from({ length }, (_, i) => scalar.read(this.#view, at + i * scalar.bytes));
    if (type !== BOOL) return values;
    const other = values.find((value) => value > 1);
    if (other !== undefined) throw this.error(`'${key}' must be true or false: it is ${other}`);
    return values.map((value) => value === 1);
  }

  async #array(key: string, nesting: number): Promise<GgufValue[]> {
    if (nesting >= MAX_NESTING) throw this.error(`'${key}' nests arrays more than ${MAX_NESTING} deep`);
    const type = await this.u32(), length = await this.count(`elements of '${key}'`, MAX_ELEMENTS);
    this.#elements += length;
    if (this.#elements > MAX_ELEMENTS) throw this.error(`its arrays have more than ${MAX_ELEMENTS} elements together`);
    if (type !== STRING && type !== ARRAY) return await this.#scalars(type, length, key);
    const out: GgufValue[] = [];
    for (let i = 0; i < length; i++) {
      out.push((type === STRING ? this.#stringAtHand() : undefined) ?? await this.value(type, key, nesting + 1));
    }
    return out;
  }
}

function safe(value: bigint): number | bigint {
  return value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value;
}
