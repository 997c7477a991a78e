/**
 * What a decoder asks of a key/value cache, whatever it holds.
 *
 * @module
 */
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";

/** Axes of one attention layer. */
export interface AttentionDims {
  readonly qHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** Tokens of a pass through the layers: `tokens` of them, `offset` tokens after those that the cache holds. */
export interface Span {
  readonly offset: number;
  readonly tokens: number;
}

/** Where a cache stands: host-side counters only, so that work encoded and never submitted can be taken back. */
export interface CacheState {
  readonly length: number;
}

/** What the layers see of a cache. */
export interface LayerCache {
  /** Tokens held. */
  readonly length: number;
  /** The most tokens it can hold. */
  readonly capacity: number;
  /** Counters to return to with {@linkcode restore} if commands encoded since are dropped. */
  state(): CacheState;
  /** Takes the counters back to `state`; newest tokens whose place was taken meanwhile are lost, and `length` says so. */
  restore(state: CacheState): void;
  /** Makes room for `tokens` more, which the next calls bring layer by layer, and for `coming` after them. */
  begin(tokens: number, coming?: number): Promise<void> | void;
  /**
   * Adds one span's keys and values to a layer and attends to everything before and in it.
   *
   * @param io `qkv f32 [T][(Q + 2K)·D]` before RoPE, `out f32 [T][Q·D]`
   */
  attend(commands: Commands, layer: number, io: { qkv: Tensor; out: Tensor }, span: Span): void;
  /** Every span of a layer has been attended to. */
  endLayer(commands: Commands, layer: number): void;
  /** Every layer has been served: the tokens count from now on. */
  commit(): void;
}

/** Keys and values of one sequence, for every layer. */
export interface KvCache extends LayerCache, Disposable {
  /** How many tokens can come before some are encoded for good: so many are taken back as if they had never come. */
  readonly slack: number;
  /** Bytes allocated on the GPU. */
  readonly bytes: number;
  /** Of these, what is the same for any capacity. */
  readonly fixedBytes: number;
  /** Forgets all but the first `length` tokens. */
  rewind(length: number): void;
  /** A copy with its own memory. */
  fork(): KvCache;
  /** What is where, to be saved beside {@linkcode arrays}. */
  layout(): CacheLayout;
  /** Whether this cache, empty, could hold a layout. */
  holds(layout: CacheLayout): boolean;
  /** The arrays that a layout takes in a file, and this cache's own bytes of them. */
  arrays(layout: CacheLayout): CacheArray[];
  /**
   * Adds tokens of a saved cache after those held, their keys turned to the new positions; an empty cache becomes the
   * saved one. The first `skip` of them, all exact, are left out. An array that cannot be read leaves a cache that has lost at most its
   * newest tokens.
   *
   * @param read bytes of an array of the saved cache
   */
  append(layout: CacheLayout, read: (name: string) => Promise<ArrayBuffer>, skip: number): Promise<void>;
}

/** Where a cache's tokens are: the sinks exact, then runs of codes, then the window exact. */
export interface CacheLayout {
  readonly length: number;
  /** Tokens of each run of codes; each begins a block of 32. */
  readonly runs: readonly number[];
  /** Slot of the window's first token. */
  readonly start: number;
}

/** One array of a saved cache. */
export interface CacheArray {
  readonly name: string;
  readonly dtype: "F16" | "U32";
  readonly shape: readonly number[];
  /** The most rows (of the second axis) that a cache made for more or fewer tokens may have saved. */
  readonly mostRows?: number;
  read(): Promise<ArrayBuffer>;
}

/** Rows `[from, from + count)` of every head of one tensor, which are rows from `to` on of another. */
export interface Rows {
  readonly from: number;
  readonly to: number;
  readonly count: number;
}

/** Copies rows between tensors `u32 [K][rows][D/2]`. */
export function copyRows(commands: Commands, source: Tensor, target: Tensor, parts: readonly Rows[]): void {
  const [heads, , words] = source.shape as [number, number, number];
  const at = (tensor: Tensor, head: number, row: number): number => 4 * words * (head * tensor.shape[1]! + row);
  for (const { from, to, count } of parts) {
    for (let k = 0; k < heads && count > 0; k++) {
      commands.copy(source, target, 4 * words * count, at(source, k, from), at(target, k, to));
    }
  }
}

/** Halves `[K][T][D]` of rows of a tensor `u32 [K][rows][D/2]`. */
export async function readRows(gpu: Gpu, tensor: Tensor, parts: readonly Rows[]): Promise<ArrayBuffer> {
  const [heads, , words] = tensor.shape as [number, number, number];
  using rows = gpu.alloc("rows to save", "u32", [heads, parts.reduce((sum, { count }) => sum + count, 0), words]);
  const commands = gpu.commands("read rows");
  copyRows(commands, tensor, rows, parts);
  commands.submit();
  return await readAll(gpu, rows);
}

/** A tensor's bytes, of which there may be none. */
export function readAll(gpu: Gpu, tensor: Tensor): Promise<ArrayBuffer> {
  return tensor.byteLength > 0 ? gpu.read(tensor) : Promise.resolve(new ArrayBuffer(0));
}

/** Words `[from, from + count)` of a tensor, part after part. */
export async function readWords(
  gpu: Gpu,
  tensor: Tensor,
  parts: readonly { readonly from: number; readonly count: number }[],
): Promise<ArrayBuffer> {
  using words = gpu.alloc("words to save", "u32", [parts.reduce((sum, { count }) => sum + count, 0)]);
  const commands = gpu.commands("read words");
  let to = 0;
  for (const { from, count } of parts) {
    if (count > 0) commands.copy(tensor, words, 4 * count, 4 * from, 4 * to);
    to += count;
  }
  commands.submit();
  return await readAll(gpu, words);
}

/** Puts halves `[K][T][D]` in rows of a tensor `u32 [K][rows][D/2]`. */
export function writeRows(gpu: Gpu, tensor: Tensor, halves: Uint16Array, parts: readonly Rows[]): void {
  const [heads, , words] = tensor.shape as [number, number, number];
  using rows = gpu.upload("saved rows", "u32", [heads, halves.length / (2 * heads * words), words], halves);
  const commands = gpu.commands("write rows");
  copyRows(commands, rows, tensor, parts);
  commands.submit();
}

/** Turns keys `[K][T][D]`, rotated as RoPE does, by so many positions more. */
export function turnKeys(keys: Float16Array, frequencies: Float64Array, positions: number): void {
  const pairs = frequencies.length;
  const cos = frequencies.map((theta) => Math.cos(theta * positions)),
    sin = frequencies.map((theta) => Math.sin(theta * positions));
  for (let at = 0; at < keys.length; at += 2 * pairs) {
    for (let d = 0; d < pairs; d++) {
      const re = keys[at + d]!, im = keys[at + pairs + d]!;
      keys[at + d] = re * cos[d]! - im * sin[d]!;
      keys[at + pairs + d] = re * sin[d]! + im * cos[d]!;
    }
  }
}

/** Throws unless `tokens` more fit a cache. */
export function expectRoom(cache: LayerCache, tokens: number): void {
  const { length, capacity } = cache;
  if (length + tokens > capacity) {
    throw new RangeError(
      `Cannot hold ${length + tokens} tokens as the cache was made for ${capacity}: load with a larger maxContext`,
    );
  }
}

/** The output of a step, `[1][Q·D]`, as the kernels see it. */
export interface StepOutput {
  readonly given: Tensor;
  /** As rows that states are merged into, `[Q][D]`. */
  readonly rows: Tensor;
  /** As the output of a state that is all there is, `[1][Q][D]`. */
  readonly whole: Tensor;
}

/** The views of `given`: those that there were, if they were of that. */
export function stepOutput(
  given: Tensor,
  { qHeads, headDim }: AttentionDims,
  known: StepOutput | undefined,
): StepOutput {
  if (known?.given === given) return known;
  return { given, rows: given.view(0, [qHeads, headDim]), whole: given.view(0, [1, qHeads, headDim]) };
}
