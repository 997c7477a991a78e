/**
 * What a decoder asks of a key/value cache, whatever it holds.
 *
 * @module
 */
import type { Commands } from "../gpu/commands.ts";
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

/** Keys and values of one sequence, for every layer. */
export interface KvCache extends Disposable {
  /** Tokens held. */
  readonly length: number;
  /** The most tokens it can hold. */
  readonly capacity: number;
  /** Bytes allocated on the GPU. */
  readonly bytes: number;
  /** Counters to return to with {@linkcode restore} if commands encoded since are dropped. */
  state(): CacheState;
  /** Takes the counters back to `state`. */
  restore(state: CacheState): void;
  /** Makes room for `tokens` more, which the next calls bring layer by layer. */
  begin(tokens: number): Promise<void> | void;
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
  /** Forgets all but the first `length` tokens. */
  rewind(length: number): void;
  /** A copy with its own memory. */
  fork(): KvCache;
}

/** Throws unless `tokens` more fit a cache. */
export function expectRoom(cache: KvCache, tokens: number): void {
  const { length, capacity } = cache;
  if (length + tokens > capacity) {
    throw new RangeError(
      `Cannot hold ${length + tokens} tokens as the cache was made for ${capacity}: load with a larger maxContext`,
    );
  }
}
