/**
 * The exact cache: keys after RoPE and values, in f16.
 *
 * @module
 */
import { ropeTable, ropeTableRows } from "../core/rope_table.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { AttnMerge } from "../kernels/attn_merge.ts";
import { AttnPrefill } from "../kernels/attn_prefill.ts";
import { AttnStep } from "../kernels/attn_step.ts";
import { RopeStore } from "../kernels/rope_store.ts";
import {
  type AttentionDims,
  type CacheArray,
  type CacheLayout,
  type CacheState,
  copyRows,
  expectRoom,
  type KvCache,
  readRows,
  type Span,
  type StepOutput,
  stepOutput,
  turnKeys,
  writeRows,
} from "./kv_cache.ts";

/** Kernels, tables and scratch of exact attention, shared by all caches of a model. */
export class ExactAttention implements Disposable {
  readonly #owned = new DisposableStack();
  readonly ropeTable: Tensor;
  readonly partialO: Tensor;
  readonly partialMd: Tensor;
  /** Those of one split. */
  readonly wholeMd: Tensor;
  readonly #queries: Tensor;
  readonly #sums: Tensor;
  readonly #views = new Map<number, { q: Tensor; md: Tensor }>();

  private constructor(
    readonly gpu: Gpu,
    readonly dims: AttentionDims,
    readonly frequencies: Float64Array,
    context: number,
    chunk: number,
    readonly step: AttnStep,
    readonly merge: AttnMerge,
    readonly store: RopeStore,
    readonly prefill: AttnPrefill,
  ) {
    const { qHeads, headDim } = dims, rows = ropeTableRows(context), { states } = step.variant;
    const alloc = (label: string, ...shape: number[]): Tensor => this.#owned.use(gpu.alloc(label, "f32", shape));
    this.ropeTable = alloc("rope table", rows, headDim / 2, 2);
    gpu.write(this.ropeTable, ropeTable(frequencies, context));
    this.partialO = alloc("partial outputs", states, qHeads, headDim);
    this.partialMd = alloc("partial maxima and sums", states, qHeads, 2);
    this.wholeMd = this.partialMd.view(0, [1, qHeads, 2]);
    this.#queries = alloc("rotated queries", chunk, qHeads, headDim);
    this.#sums = alloc("maxima and sums", 1, chunk * qHeads, 2);
  }

  /**
   * @param frequencies rotary frequencies in radians a position, `[P]`
   * @param context most tokens of a sequence
   * @param chunk most tokens of one span
   */
  static async create(
    gpu: Gpu,
    dims: AttentionDims,
    frequencies: Float64Array,
    context: number,
    chunk: number,
  ): Promise<ExactAttention> {
    const kernels = await Promise.all([
      AttnStep.create(gpu, dims),
      AttnMerge.create(gpu, dims.headDim),
      RopeStore.create(gpu, dims),
      AttnPrefill.create(gpu, dims),
    ]);
    return new ExactAttention(gpu, dims, frequencies, context, chunk, ...kernels);
  }

  /** Rotated queries `[T][Q][D]` and row states `[1][T·Q][2]` of a span. */
  views(tokens: number): { q: Tensor; md: Tensor } {
    const { qHeads, headDim } = this.dims;
    let views = this.#views.get(tokens);
    if (!views) {
      if (this.#views.size >= 16) this.#views.clear();
      const q = this.#queries.view(0, [tokens, qHeads, headDim]), md = this.#sums.view(0, [1, tokens * qHeads, 2]);
      this.#views.set(tokens, views = { q, md });
    }
    return views;
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}

/** Keys and values `u32 [K][capacity][D/2]` of every layer, two halves a word. */
export class ExactCache implements KvCache {
  /** Nothing is ever encoded. */
  readonly slack: number = Infinity;
  readonly fixedBytes: number = 0;
  #length = 0;
  #pending = 0;
  readonly #owned = new DisposableStack();
  readonly #layers: readonly { keys: Tensor; values: Tensor }[];
  #out: StepOutput | undefined;

  constructor(readonly attention: ExactAttention, readonly layers: number, readonly capacity: number) {
    const { kvHeads, headDim } = attention.dims, shape = [kvHeads, capacity, headDim / 2];
    const alloc = (label: string): Tensor => this.#owned.use(attention.gpu.alloc(label, "u32", shape));
    this.#layers = Array.from(
      { length: layers },
      (_, i) => ({ keys: alloc(`layer ${i} keys`), values: alloc(`layer ${i} values`) }),
    );
  }

  get length(): number {
    return this.#length;
  }

  get bytes(): number {
    return this.#layers.reduce((sum, { keys, values }) => sum + keys.byteLength + values.byteLength, 0);
  }

  state(): CacheState {
    return { length: this.#length };
  }

  restore({ length }: CacheState): void {
    this.#length = length;
    this.#pending = 0;
  }

  begin(tokens: number): void {
    expectRoom(this, tokens);
    this.#pending = tokens;
  }

  attend(
    commands: Commands,
    layer: number,
    { qkv, out }: { qkv: Tensor; out: Tensor },
    { offset, tokens }: Span,
  ): void {
    const { step, merge, store, prefill, ropeTable, partialO, partialMd, wholeMd, dims } = this.attention;
    const { keys, values } = this.#layers[layer]!, { qHeads: rows, headDim } = dims, position = this.#length + offset;
    const { q, md } = this.attention.views(tokens), io = { qkv, ropeTable, q, keys, values };
    if (tokens > 1) {
      store.encode(commands, io, { tokens, position, slot: position });
      prefill.encode(commands, { q, keys, values, out, md }, { tokens, start: 0, seen: position + 1 });
      return;
    }
    this.#out = stepOutput(out, dims, this.#out);
    const splits = step.splits(position + 1);
    if (splits === 1) {
      step.encode(commands, { ...io, partialO: this.#out.whole, partialMd: wholeMd }, {
        position,
        splits,
        isWhole: true,
      });
      return;
    }
    step.encode(commands, { ...io, partialO, partialMd }, { position, splits });
    merge.encode(commands, { partialO, partialMd, out: this.#out.rows }, { rows, splits, headDim });
  }

  endLayer(): void {}

  commit(): void {
    this.#length += this.#pending;
    this.#pending = 0;
  }

  rewind(length: number): void {
    this.#length = Math.min(this.#length, length);
  }

  fork(): ExactCache {
    const copy = new ExactCache(this.attention, this.layers, this.capacity);
    const commands = this.attention.gpu.commands("fork"), all = [{ from: 0, to: 0, count: this.#length }];
    this.#layers.forEach(({ keys, values }, i) => {
      copyRows(commands, keys, copy.#layers[i]!.keys, all);
      copyRows(commands, values, copy.#layers[i]!.values, all);
    });
    commands.submit();
    copy.#length = this.#length;
    return copy;
  }

  layout(): CacheLayout {
    return { length: this.#length, runs: [], start: 0 };
  }

  holds({ length, runs }: CacheLayout): boolean {
    return length <= this.capacity && runs.length === 0;
  }

  arrays({ length }: CacheLayout): CacheArray[] {
    const { gpu, dims: { kvHeads, headDim } } = this.attention, shape = [kvHeads, length, headDim];
    const array = (name: string, tensor: Tensor): CacheArray => {
      return { name, dtype: "F16", shape, read: () => readRows(gpu, tensor, [{ from: 0, to: 0, count: length }]) };
    };
    return this.#layers.flatMap(({ keys, values }, i) => [
      array(`layers.${i}.keys.exact`, keys),
      array(`layers.${i}.values.exact`, values),
    ]);
  }

  async append({ length }: CacheLayout, read: (name: string) => Promise<ArrayBuffer>, skip: number): Promise<void> {
    const { gpu, frequencies } = this.attention, count = length - skip, to = this.#length;
    expectRoom(this, count);
    for (const [i, layer] of this.#layers.entries()) {
      for (const side of ["keys", "values"] as const) {
        const bytes = await read(`layers.${i}.${side}.exact`);
        if (side === "keys" && to > 0) turnKeys(new Float16Array(bytes), frequencies, to - skip);
        writeRows(gpu, layer[side], new Uint16Array(bytes), [{ from: skip, to, count }]);
      }
    }
    this.#length += count;
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}
