/**
 * How weight matrices lie on the GPU: the blocks of a file, with what would break 16-byte loads taken out.
 *
 * A matrix [rows][cols] takes two buffers. `data` holds rows of whole 16-byte words; `scales` holds the blocks' scales in
 * half precision, in the order of the blocks.
 *
 * | type | a block's data | its scale |
 * | --- | --- | --- |
 * | F32, F16, BF16 | as in the file; rows are padded with zeros to a multiple of 16 columns | none |
 * | Q8_0, Q4_0 | 32 or 16 bytes | f16 |
 * | Q4_K | 144 bytes as in the file, its scales among them | none |
 * | Q6_K | 208 bytes: low bits, high bits, sub-block scales | f16 |
 *
 * @module
 */
import { BLOCKS, type WeightType } from "./model.ts";

/** Weights of a unit, the least that kernels read at once. */
export const UNIT = 16;

/** What a row of a matrix takes. */
export interface WeightLayout {
  /** Units, padding included. */
  readonly units: number;
  /** Bytes in the file. */
  readonly fileBytes: number;
  /** Bytes of `data`, a multiple of 16. */
  readonly dataBytes: number;
  /** Numbers of `scales`, two bytes each. */
  readonly scales: number;
}

/** Bytes of a block that go to `data`, and where they and the block's scale begin; for types with a scale apart. */
const SPLIT: Readonly<Partial<Record<WeightType, { data: number; dataAt: number; scaleAt: number }>>> = {
  Q8_0: { data: 32, dataAt: 2, scaleAt: 0 },
  Q4_0: { data: 16, dataAt: 2, scaleAt: 0 },
  Q6_K: { data: 208, dataAt: 0, scaleAt: 208 },
};

/** The layout of a row of `cols` weights. Throws `RangeError` where they are no whole blocks, or no multiple of 4. */
export function weightLayout(type: WeightType, cols: number): WeightLayout {
  const block = BLOCKS[type], multiple = Math.max(4, block.weights), units = Math.ceil(cols / UNIT);
  if (!(cols > 0) || cols % multiple !== 0) {
    throw new RangeError(`Cannot lay out ${type} weights as rows must be a multiple of ${multiple} columns: ${cols}`);
  }
  const blocks = cols / block.weights, split = SPLIT[type], fileBytes = blocks * block.bytes;
  if (split) return { units, fileBytes, dataBytes: blocks * split.data, scales: blocks };
  return { units, fileBytes, dataBytes: block.weights > 1 ? fileBytes : units * UNIT * block.bytes, scales: 0 };
}

/** Bytes of the two buffers of a matrix. */
export function weightBytes(type: WeightType, rows: number, cols: number): { data: number; scales: number } {
  const { dataBytes, scales } = weightLayout(type, cols);
  return { data: rows * dataBytes, scales: rows * scales * 2 };
}

/** Whether {@linkcode repackRows} would only copy: the file's bytes are `data` already. */
export function isPacked(type: WeightType, cols: number): boolean {
  const { fileBytes, dataBytes, scales } = weightLayout(type, cols);
  return fileBytes === dataBytes && scales === 0;
}

/** Turns whole rows of a file's bytes, at any alignment, into what `data` and `scales` hold for them. */
export function repackRows(
  type: WeightType,
  cols: number,
  file: Uint8Array,
  data: Uint8Array,
  scales: Uint16Array,
): void {
  const { fileBytes, dataBytes } = weightLayout(type, cols), split = SPLIT[type];
  if (split) return splitBlocks(file, data, scales, BLOCKS[type].bytes, split);
  for (let from = 0, to = 0; from < file.length; from += fileBytes, to += dataBytes) {
    data.set(file.subarray(from, from + fileBytes), to);
    data.fill(0, to + fileBytes, to + dataBytes);
  }
}

/** Eight bytes at a time: the only copy of a few bytes that V8 compiles to plain moves. */
function splitBlocks(
  file: Uint8Array,
  data: Uint8Array,
  scales: Uint16Array,
  bytes: number,
  { data: count, dataAt, scaleAt }: { data: number; dataAt: number; scaleAt: number },
): void {
  const from = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const to = new DataView(data.buffer, data.byteOffset, data.byteLength);
  for (let block = 0, at = 0, out = 0; at < file.length; block++, at += bytes) {
    scales[block] = from.getUint16(at + scaleAt, true);
    for (let i = at + dataAt, end = i + count; i < end; i += 8, out += 8) {
      to.setBigUint64(out, from.getBigUint64(i, true), true);
    }
  }
}
