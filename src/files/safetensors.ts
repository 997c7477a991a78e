/**
 * Safetensors files: read, checked, and written.
 *
 * @module
 */
import { FileFormatError } from "../core/errors.ts";
import { expectDisjoint } from "./gguf.ts";
import { isObject, MAX_JSON, parseObject } from "./json.ts";
import type { ByteSource } from "./source.ts";

/** Bytes of one element, by the format's names. */
const ELEMENT_BYTES = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
};

/** Element types by the format's names. */
export type SafetensorsType = keyof typeof ELEMENT_BYTES;

/** Where a tensor lies. */
export interface SafetensorsEntry {
  readonly name: string;
  readonly dtype: SafetensorsType;
  readonly shape: readonly number[];
  /** Of the first byte in the file. */
  readonly offset: number;
  readonly byteLength: number;
}

/** What a header says. */
export interface Safetensors {
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: Map<string, SafetensorsEntry>;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function bytesOf(dtype: SafetensorsType, shape: readonly number[]): number {
  return shape.reduce((product, axis) => product * axis, ELEMENT_BYTES[dtype]);
}

/** Reads and checks a header. Throws `FileFormatError` for what is not a whole safetensors file. */
export async function readSafetensors(source: ByteSource): Promise<Safetensors> {
  const error = (what: string): FileFormatError =>
    new FileFormatError(`Cannot read ${source.name} as ${what}: get an undamaged copy`);
  if (source.size < 10) throw error("it is too short for safetensors");
  const length = Number(new DataView((await source.read(0, 8)).buffer).getBigUint64(0, true)), base = 8 + length;
  // The format allows 100 MB; headers have some kB.
  if (length < 2 || length > MAX_JSON) {
    throw error(`its header must have 2 to ${MAX_JSON} bytes: it claims ${length}`);
  }
  if (base > source.size) throw error("its header is cut off");
  const header = parseObject(await source.read(8, length), `the header of ${source.name}`);
  const { __metadata__: metadata = {}, ...rest } = header, tensors = new Map<string, SafetensorsEntry>();
  if (!isObject(metadata) || Object.values(metadata).some((value) => typeof value !== "string")) {
    throw error("its metadata must be strings");
  }
  let used = base;
  for (const [name, entry] of Object.entries(rest)) {
    if (!isObject(entry)) throw error(`the entry of '${name}' must be an object`);
    const { dtype, shape, data_offsets: range } = entry;
    if (typeof dtype !== "string" || !Object.hasOwn(ELEMENT_BYTES, dtype)) {
      throw error(`'${name}' has an unknown type: ${JSON.stringify(dtype)}`);
    }
    if (!Array.isArray(shape) || shape.length > 8 || !shape.every(isCount)) throw error(`'${name}' has no valid shape`);
    if (!Array.isArray(range) || range.length !== 2 || !range.every(isCount)) {
      throw error(`'${name}' has no valid offsets`);
    }
    const [begin, end] = range as [number, number], type = dtype as SafetensorsType;
    const want = bytesOf(type, shape);
    if (end - begin !== want) {
      throw error(`'${name}' of ${type} [${shape}] needs ${want} bytes: its offsets span ${end - begin}`);
    }
    if (base + end > source.size) {
      throw error(`'${name}' points past its end: it needs ${base + end} bytes and the file has ${source.size}`);
    }
    tensors.set(name, { name, dtype: type, shape: shape as number[], offset: base + begin, byteLength: want });
    used += want;
  }
  expectDisjoint(source.name, [...tensors.values()].filter((t) => t.byteLength > 0));
  // Disjoint ranges inside the file whose sizes add up to it leave no gap.
  if (used !== source.size) throw error(`its header and tensors have ${used} bytes and the file ${source.size}`);
  return { metadata: metadata as Record<string, string>, tensors };
}

/** A tensor to write: its bytes are those of `data`. */
export interface TensorData {
  readonly dtype: SafetensorsType;
  readonly shape: readonly number[];
  readonly data: ArrayBufferView;
}

/** A tensor to write whose bytes are read in its turn, so that not all of them are in memory at a time. */
export interface TensorSource {
  readonly dtype: SafetensorsType;
  readonly shape: readonly number[];
  read(): Promise<ArrayBuffer>;
}

function expectBytes(name: string, { dtype, shape }: TensorData | TensorSource, byteLength: number): void {
  const want = bytesOf(dtype, shape);
  if (byteLength === want) return;
  throw new TypeError(`Cannot write '${name}' as ${dtype} [${shape}] needs ${want} bytes: it has ${byteLength}`);
}

/** The length and the JSON that begin a file: the same tensors and metadata give the same bytes. */
function encodeHeader(
  tensors: Readonly<Record<string, TensorData | TensorSource>>,
  metadata: Readonly<Record<string, string>>,
): Uint8Array {
  const header: Record<string, unknown> = {};
  header.__metadata__ = Object.fromEntries(Object.entries(metadata).toSorted(([a], [b]) => a < b ? -1 : 1));
  let size = 0;
  for (const [name, tensor] of Object.entries(tensors)) {
    const { dtype, shape } = tensor, want = bytesOf(dtype, shape);
    if ("data" in tensor) expectBytes(name, tensor, tensor.data.byteLength);
    header[name] = { dtype, shape, data_offsets: [size, size + want] };
    size += want;
  }
  const json = new TextEncoder().encode(JSON.stringify(header)), length = Math.ceil(json.length / 8) * 8;
  const out = new Uint8Array(8 + length).fill(0x20); // spaces keep the numbers behind it aligned
  new DataView(out.buffer).setBigUint64(0, BigInt(length), true);
  out.set(json, 8);
  return out;
}

/** Writes a safetensors file in one step: an interruption leaves the old file or the new one, never half of one. */
export async function writeSafetensors(
  path: string,
  tensors: Readonly<Record<string, TensorData | TensorSource>>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const header = encodeHeader(tensors, metadata), unfinished = `${path}.unfinished`;
  try {
    {
      using file = await Deno.open(unfinished, { write: true, create: true, truncate: true });
      const write = async ({ buffer, byteOffset, byteLength }: ArrayBufferView): Promise<void> => {
        for (let at = 0; at < byteLength;) {
          at += await file.write(new Uint8Array(buffer, byteOffset + at, byteLength - at));
        }
      };
      await write(header);
      for (const [name, tensor] of Object.entries(tensors)) {
        const bytes = "data" in tensor ? tensor.data : new Uint8Array(await tensor.read());
        expectBytes(name, tensor, bytes.byteLength);
        await write(bytes);
      }
      await file.sync();
    }
    await Deno.rename(unfinished, path);
  } catch (error) {
    await Deno.remove(unfinished).catch(() => {});
    throw error;
  }
}
