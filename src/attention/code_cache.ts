/**
 * The compressed cache: packed codes of all tokens but the first few and the newest, which stay exact.
 *
 * @module
 */
import { codeBits, moreBits } from "../core/codec.ts";
import { BLOCK, blocks, INDEX_WORDS, indexWord, putRanks } from "../core/pack.ts";
import type { Commands } from "../gpu/commands.ts";
import { elements, type Tensor } from "../gpu/tensor.ts";
import { allocMore } from "../kernels/packed_codes.ts";
import { type CodeAttention, moreOf, sizesOf } from "./code_attention.ts";
import {
  type CacheArray,
  type CacheLayout,
  type CacheState,
  copyRows,
  expectRoom,
  type KvCache,
  readAll,
  readRows,
  readWords,
  type Rows,
  type Span,
  type StepOutput,
  stepOutput,
  turnKeys,
  writeRows,
} from "./kv_cache.ts";
import { blocksOf, encodedOf, endOf, extend, flushed, hasRoom, MAX_RUNS, place, type Run } from "./runs.ts";

interface State extends CacheState {
  readonly runs: readonly Run[];
  /** The token (counted from the sinks on) that is first in the ring. */
  readonly origin: number;
}

type Layer = Record<"keys" | "values", { exact: Tensor; codes: Tensor; scales: Tensor; more?: Tensor }>;

/**
 * Codes `u32 [blocks][K][bits]` and scales `f16 [T]` of keys and values, further codes where a codec has tiers, and a ring
 * of exact tokens `u32 [K][sinks + ring][D/2]`, of every layer. Tokens are encoded in blocks of 32 as the ring fills.
 */
export class CodeCache implements KvCache {
  readonly #owned = new DisposableStack();
  readonly #layers: readonly Layer[];
  #state: State = { length: 0, runs: [], origin: 0 };
  #next: State = this.#state;
  /** Blocks that the coming tokens push out of the ring, encoded as they pass each layer. */
  #flush: Run | undefined;
  /** Whether some layer's ring already holds coming tokens where older ones were. */
  #torn = false;
  #out: StepOutput | undefined;
  readonly #q: Tensor;

  /** `decodes` attends to the decoded past instead of the codes: slow, and what the fused path is held to by tests. */
  constructor(
    readonly attention: CodeAttention,
    readonly layers: number,
    readonly capacity: number,
    readonly decodes: boolean = false,
  ) {
    const { gpu, ring, kept, exact: { dims: { kvHeads, headDim, qHeads } } } = attention;
    const alloc = (label: string, dtype: "u32" | "f16", ...shape: number[]): Tensor =>
      this.#owned.use(gpu.alloc(label, dtype, shape));
    const side = (name: "keys" | "values", layer: number) => {
      const { count, starts } = sizesOf(attention[name], layer, capacity);
      return {
        exact: alloc(`exact ${name}`, "u32", kvHeads, kept.sinks + ring, headDim / 2),
        codes: alloc(`${name}' codes`, "u32", count, kvHeads, codeBits(attention[name].encoder.codec)),
        scales: alloc(`${name}' scales`, "f16", count * BLOCK),
        ...starts && { more: this.#owned.use(allocMore(gpu, starts)) },
      };
    };
    this.#layers = Array.from({ length: layers }, (_, l) => ({ keys: side("keys", l), values: side("values", l) }));
    this.#q = attention.exact.views(1).q.view(0, [qHeads, headDim]);
  }

  get length(): number {
    return this.#state.length;
  }

  get slack(): number {
    const { length, runs } = this.#state, { ring, kept: { sinks } } = this.attention;
    return Math.max(0, ring - Math.max(0, length - sinks - encodedOf(runs)));
  }

  get bytes(): number {
    return this.#tensors().reduce((sum, tensor) => sum + tensor.byteLength, 0);
  }

  get fixedBytes(): number {
    return CodeCache.bytesOf(this.attention, this.layers, 0);
  }

  /** Bytes that a cache allocates, before there is one. */
  static bytesOf(
    { keys, values, ring, kept, exact: { dims: { kvHeads, headDim } } }: CodeAttention,
    layers: number,
    capacity: number,
  ): number {
    const exact = 2 * kvHeads * (kept.sinks + ring) * headDim * 2;
    let codes = 0;
    for (const side of [keys, values]) {
      const ofAll = 4 * kvHeads * codeBits(side.encoder.codec) + 2 * BLOCK;
      for (let l = 0; l < layers; l++) {
        codes += sizesOf(side, l, capacity).count * ofAll + 4 * moreOf(side, l, capacity);
      }
    }
    return layers * exact + codes;
  }

  /** Tokens that a cache of `tokens`, never rewound, keeps exact. */
  static nearOf({ ring, kept: { sinks } }: CodeAttention, tokens: number): number {
    return tokens - flushed(tokens - sinks, ring);
  }

  #tensors(): Tensor[] {
    return this.#layers.flatMap(({ keys, values }) =>
      [keys, values].flatMap(({ exact, codes, scales, more }) =>
        more ? [exact, codes, scales, more] : [exact, codes, scales]
      )
    );
  }

  state(): CacheState {
    return this.#state;
  }

  restore(state: CacheState): void {
    this.#state = this.#next = state as State;
    this.#flush = undefined;
    if (this.#torn) this.#dropRing();
    this.#torn = false;
  }

  /** Keeps the sinks and the codes alone. */
  #dropRing(): void {
    const { length, runs } = this.#state, origin = encodedOf(runs);
    const kept = Math.min(length, this.attention.kept.sinks + origin);
    this.#state = this.#next = { length: kept, runs, origin };
  }

  async begin(tokens: number, coming = 0): Promise<void> {
    expectRoom(this, tokens);
    const { length, runs, origin } = this.#state, { ring, kept: { sinks } } = this.attention;
    const encoded = encodedOf(runs), out = flushed(length + tokens - sinks - encoded, ring);
    this.#flush = out > 0 ? { block: blocksOf(runs), tokens: out, position: sinks + encoded } : undefined;
    this.#next = { length: length + tokens, runs: this.#flush ? extend(runs, this.#flush) : runs, origin };
    if (tokens > 1 || this.decodes) await this.attention.stage(length + tokens + coming);
  }

  attend(commands: Commands, layer: number, io: { qkv: Tensor; out: Tensor }, span: Span): void {
    if (this.#next.length - this.#state.length > 1) this.#attendStaged(commands, layer, io, span);
    else this.#attendOne(commands, layer, io);
  }

  /** One token: over the codes of the past and the exact tokens, each as partial states. */
  #attendOne(commands: Commands, layer: number, { qkv, out }: { qkv: Tensor; out: Tensor }): void {
    const { exact, step, codes, partialO, partialMd } = this.attention, { ropeTable, dims } = exact;
    const { keys, values } = this.#layers[layer]!, { length: position } = this.#state, { q } = exact.views(1);
    if (this.#flush) {
      this.#encode(commands, layer, keys.exact, values.exact, this.#flush, this.#slot(this.#flush.position));
    }
    const slot = this.#slot(position), io = { qkv, ropeTable, q, keys: keys.exact, values: values.exact };
    if (this.decodes) {
      this.#stagePast(commands, layer, { ...this.#next, length: position });
      this.#attendStaged(commands, layer, { qkv, out }, { offset: 0, tokens: 1 }, false);
      exact.store.encode(commands, io, { tokens: 1, position, slot });
      return;
    }
    this.#out = stepOutput(out, dims, this.#out);
    const { runs } = this.#next,
      near = this.#near(this.#next),
      splits = step.splits(near.seen),
      at = { position, slot, ...near };
    if (runs.length === 0 && splits === 1) {
      const whole = { partialO: this.#out.whole, partialMd: exact.wholeMd };
      step.encode(commands, { ...io, ...whole }, { ...at, splits, isWhole: true });
      return;
    }
    step.encode(commands, { ...io, partialO, partialMd }, { ...at, splits });
    let state = splits;
    const packed = (side: "keys" | "values") => {
      const { codes, scales, more } = this.#layers[layer]![side];
      return { table: this.attention[side].layers[layer]!.table, codes, scales, more };
    };
    const streams = { q: this.#q, keys: packed("keys"), values: packed("values"), ropeTable, partialO, partialMd };
    for (const { block, tokens, position } of runs) {
      const first = block * BLOCK;
      state += codes.encode(commands, streams, { first, tokens, base: position - first, state });
    }
    const { qHeads: rows, headDim } = dims;
    exact.merge.encode(commands, { partialO, partialMd, out: this.#out.rows }, { rows, splits: state, headDim });
  }

  /** Several tokens: exactly among themselves and over the decoded past, in the staging of one layer. */
  #attendStaged(
    commands: Commands,
    layer: number,
    { qkv, out }: { qkv: Tensor; out: Tensor },
    { offset, tokens }: Span,
    stagesPast = offset === 0 && this.length > 0,
  ): void {
    const { exact } = this.attention, { keys, values } = this.attention.staging(), { q, md } = exact.views(tokens);
    if (stagesPast) this.#stagePast(commands, layer, this.#state);
    const slot = this.length + offset, { ropeTable } = exact;
    exact.store.encode(commands, { qkv, ropeTable, q, keys, values }, { tokens, position: slot, slot });
    exact.prefill.encode(commands, { q, keys, values, out, md }, { tokens, start: 0, seen: slot + 1 });
  }

  /** Puts what a layer holds into the staging, each token at the slot of its position. */
  #stagePast(commands: Commands, layer: number, state: State): void {
    const { decode, exact: { ropeTable } } = this.attention, staging = this.attention.staging();
    for (const side of ["keys", "values"] as const) {
      const { codes, scales, more } = this.#layers[layer]![side], { table } = this.attention[side].layers[layer]!;
      const io = { table, codes, scales, more, quads: this.attention.quads(side), ropeTable, out: staging[side] };
      for (const { block, tokens, position } of state.runs) {
        const first = block * BLOCK;
        decode[side].encode(commands, io, { first, tokens, slot: position, base: position - first });
      }
    }
    this.#copyExact(commands, layer, state, false);
  }

  endLayer(commands: Commands, layer: number): void {
    if (this.#next.length - this.#state.length <= 1) return;
    const { keys, values } = this.attention.staging();
    if (this.#flush) this.#encode(commands, layer, keys, values, this.#flush);
    this.#torn ||= this.#flush !== undefined;
    this.#copyExact(commands, layer, this.#next, true);
  }

  /** Copies exact tokens to the ring or from it; in the staging a token's slot is its position. */
  #copyExact(commands: Commands, layer: number, state: State, toRing: boolean): void {
    const skipped = encodedOf(state.runs), { kept: { sinks } } = this.attention;
    const parts = this.#exactRows(state).map(({ from, to, count }) => {
      const slot = to < sinks ? to : to + skipped;
      return toRing ? { from: slot, to: from, count } : { from, to: slot, count };
    });
    for (const side of ["keys", "values"] as const) {
      const ring = this.#layers[layer]![side].exact, staging = this.attention.staging()[side];
      copyRows(commands, ...(toRing ? [staging, ring] as const : [ring, staging] as const), parts);
    }
  }

  /** Slots of the exact tokens, as rows of their own that follow each other. */
  #exactRows(state: State): Rows[] {
    const { seen, hole, gap } = this.#near(state), sinks = Math.min(this.attention.kept.sinks, seen), rows: Rows[] = [];
    let to = 0;
    for (const [from, count] of [[0, sinks], [hole + gap, seen - hole], [sinks, hole - sinks]] as const) {
      if (count > 0) rows.push({ from, to, count });
      to += count;
    }
    return rows;
  }

  /** Encodes the blocks that leave the ring, from `first` of an exact source on. */
  #encode(commands: Commands, layer: number, keys: Tensor, values: Tensor, run: Run, first = run.position): void {
    const { tokens, position, block } = run, { ropeTable } = this.attention.exact;
    const span = { tokens, first, position, block, held: endOf(this.#state.runs) };
    for (const [side, source] of [["keys", keys], ["values", values]] as const) {
      const { codes, scales, more } = this.#layers[layer]![side], { encoder, layers } = this.attention[side];
      encoder.encode(commands, layers[layer]!, { source, ropeTable, codes, scales, more }, span);
    }
  }

  /** Slot of a position among the exact tokens. */
  #slot(position: number): number {
    const { kept: { sinks }, ring } = this.attention;
    return position < sinks ? position : sinks + (position - sinks - this.#state.origin) % ring;
  }

  /** Exact tokens, and where their slots leave a gap: before the ring's oldest or, where the newest went around, amid it. */
  #near({ length, runs }: State): { seen: number; hole: number; gap: number } {
    const { kept, ring } = this.attention, encoded = encodedOf(runs);
    const sinks = Math.min(kept.sinks, length), held = Math.max(0, length - kept.sinks - encoded);
    const at = (encoded - this.#state.origin) % ring, around = Math.max(0, held - (ring - at));
    return { seen: sinks + held, hole: sinks + around, gap: held > 0 ? at - around : 0 };
  }

  commit(): void {
    this.#state = this.#next;
    this.#flush = undefined;
    this.#torn = false;
  }

  rewind(length: number): void {
    if (length >= this.length) return;
    const { kept: { sinks } } = this.attention, keep = Math.max(0, length - sinks), { origin } = this.#state;
    let { runs } = this.#state;
    if (keep < encodedOf(runs)) { // into the codes: the last block may stay unfinished, and the ring begins anew
      let left = keep;
      runs = runs.flatMap((run) => {
        const tokens = Math.min(run.tokens, left);
        left -= tokens;
        return tokens > 0 ? [{ ...run, tokens }] : [];
      });
      if (!hasRoom(runs)) {
        throw new RangeError(`Cannot rewind into encoded tokens more than ${MAX_RUNS - 1} times: start a new session`);
      }
      this.#state = this.#next = { length, runs, origin: keep };
    } else this.#state = this.#next = { length, runs, origin };
  }

  fork(): CodeCache {
    const copy = new CodeCache(this.attention, this.layers, this.capacity),
      commands = this.attention.gpu.commands("fork");
    const targets = copy.#tensors();
    this.#tensors().forEach((tensor, i) =>
      commands.copy(tensor, targets[i]!, Math.ceil(elements(tensor.shape) * (tensor.dtype === "f16" ? 2 : 4) / 4) * 4)
    );
    commands.submit();
    copy.#state = copy.#next = this.#state;
    return copy;
  }

  layout(): CacheLayout {
    const { length, runs, origin } = this.#state;
    return {
      length,
      runs: runs.map(({ tokens }) => tokens),
      start: (encodedOf(runs) - origin) % this.attention.ring,
    };
  }

  holds({ length, runs, start }: CacheLayout): boolean {
    const { ring, kept: { sinks } } = this.attention, encoded = runs.reduce((sum, tokens) => sum + tokens, 0);
    const window = length - encoded - Math.min(sinks, length);
    return length <= this.capacity && hasRoom(runs.map((tokens) => ({ tokens }))) && window >= 0 && window <= ring &&
      start % BLOCK === 0 && start < ring;
  }

  arrays(layout: CacheLayout): CacheArray[] {
    const { attention: { gpu, exact: { dims: { kvHeads, headDim } } } } = this;
    const runs = place(layout.runs, this.attention.kept.sinks), count = blocksOf(runs);
    const near = layout.length - encodedOf(runs);
    return this.#layers.flatMap((layer, i) =>
      (["keys", "values"] as const).flatMap((side): CacheArray[] => {
        const { exact, codes, scales, more } = layer[side], name = `layers.${i}.${side}`;
        const shape = [count, ...codes.shape.slice(1)];
        return [
          ...more ? this.#furtherArrays(i, side, more, count) : [],
          {
            ...{ name: `${name}.exact`, dtype: "F16", shape: [kvHeads, near, headDim] },
            read: () => readRows(gpu, exact, this.#exactRows(this.#state)),
          },
          { name: `${name}.codes`, dtype: "U32", shape, read: () => readAll(gpu, codes.view(0, shape)) },
          {
            ...{ name: `${name}.scales`, dtype: "F16", shape: [count * BLOCK] },
            read: () => readAll(gpu, scales.view(0, [count * BLOCK])),
          },
        ];
      })
    );
  }

  /** The index of `count` blocks, and the blocks of as many tokens as may have further codes. */
  #furtherArrays(layer: number, side: "keys" | "values", more: Tensor, count: number): CacheArray[] {
    const { attention: { gpu, exact: { dims: { kvHeads } }, ...attention }, capacity } = this;
    const { rooms, starts } = sizesOf(attention[side], layer, capacity), bits = moreBits(attention[side].encoder.codec);
    const held = rooms.map((room) => Math.min(room / BLOCK, count) * bits), rows = Math.max(...held) / bits;
    const parts = held.map((words, k) => ({ from: starts![k]!, count: words })), name = `layers.${layer}.${side}`;
    const index = { from: indexWord(kvHeads, 0, 0), count: count * kvHeads * INDEX_WORDS };
    return [
      {
        ...{ name: `${name}.index`, dtype: "U32", shape: [count, kvHeads, INDEX_WORDS] },
        read: () => readWords(gpu, more, [index]),
      },
      {
        ...{ name: `${name}.further`, dtype: "U32", shape: [kvHeads, rows, bits], mostRows: count },
        read: async () => {
          const all = new Uint32Array(await readWords(gpu, more, parts)), out = new Uint32Array(kvHeads * rows * bits);
          held.reduce((at, words, k) => (out.set(all.subarray(at, at + words), k * rows * bits), at + words), 0);
          return out.buffer;
        },
      },
    ];
  }

  /**
   * Takes up further codes of blocks from `base` on behind those that are held; what there is no room for is left out, and
   * its tokens keep the stages of all.
   */
  async #appendFurther(
    layer: number,
    side: "keys" | "values",
    more: Tensor,
    base: number,
    held: number,
    index: Uint32Array,
    further: Uint32Array,
  ): Promise<void> {
    const { gpu, exact: { dims: { kvHeads } }, ...attention } = this.attention,
      { encoder: { codec } } = attention[side];
    const bits = moreBits(codec), { rooms, starts } = sizesOf(attention[side], layer, this.capacity);
    const last = { from: indexWord(kvHeads, base - 1, 0), count: INDEX_WORDS * kvHeads };
    const before = held > 0 ? new Uint32Array(await readWords(gpu, more, [last])) : undefined;
    const taken = Array.from(
      { length: kvHeads },
      (_, k) => before ? before[2 * k + 1]! + bitCount(before[2 * k]! & (0xffffffff >>> (32 - held))) : 0,
    );
    // Blocks that the codes held end amid, or at.
    const ends = taken.map((rank, k) => ({
      from: starts![k]! + (rank >>> 5) * bits,
      count: rank < rooms[k]! ? bits : 0,
    }));
    const ours = new Uint32Array(await readWords(gpu, more, ends)), rows = further.length / kvHeads / bits;
    let at = 0;
    for (const [k, { from, count }] of ends.entries()) {
      const own = taken[k]! % BLOCK, fits = Math.min(rows * BLOCK, shiftRanks(index, kvHeads, k, taken[k]!, rooms[k]!));
      const theirs = further.subarray(k * rows * bits, (k * rows + blocks(fits)) * bits);
      let words = theirs;
      if (own > 0) {
        words = new Uint32Array(blocks(own + fits) * bits);
        putRanks(codec, words, 0, ours.subarray(at, at + bits), own);
        putRanks(codec, words, own, theirs, fits);
      }
      if (fits > 0) gpu.write(more, words, 4 * from);
      at += count;
    }
    gpu.write(more, index, 4 * indexWord(kvHeads, base, 0));
  }

  /**
   * Between the codes held and those that come, what was exact is encoded: the window held, and the sinks that come.
   * Without codes to come, exact tokens are encoded as far as the ring does not hold them all.
   */
  async append(layout: CacheLayout, read: (name: string) => Promise<ArrayBuffer>, skip: number): Promise<void> {
    const { gpu, ring, kept: { sinks }, exact: { frequencies, dims: { kvHeads, headDim } } } = this.attention;
    const { length, runs } = this.#state, theirs = layout.runs.reduce((sum, tokens) => sum + tokens, 0);
    expectRoom(this, layout.length - skip);
    if (skip > 0 && theirs > 0 && sinks < skip) {
      throw new RangeError("Cannot leave out an encoded token as a block of codes is whole: keep sinks exact");
    }
    const held = this.#exactRows(this.#state).filter(({ from }) => from >= sinks);
    const own = held.reduce((sum, { count }) => sum + count, 0),
      come = layout.length - theirs - skip,
      near = own + come;
    // Of the exact tokens, in order: sinks, tokens to encode, tokens for the ring.
    const first = Math.max(0, Math.min(sinks - length, come)), rest = near - first;
    const tokens = theirs > 0 ? rest - (layout.length - theirs - sinks) : flushed(rest, ring);
    const lead = { block: blocksOf(runs), tokens, position: sinks + encodedOf(runs) };
    const before = tokens > 0 ? extend(runs, lead) : runs, base = blocksOf(before);
    const coming = place(layout.runs, sinks + encodedOf(before), base), all = coming.reduce(extend, before);
    if (!hasRoom(all)) {
      throw new RangeError(
        `Cannot append as the cache holds at most ${MAX_RUNS} runs of codes: start a new session`,
      );
    }
    const encoded = encodedOf(all), start = length > 0 ? 0 : layout.start;
    const next: State = { length: length + layout.length - skip, runs: all, origin: encoded - start };
    const at = sinks + start, here = first + tokens, fits = Math.min(near - here, ring - start);
    const target = [
      { from: 0, to: length, count: first },
      { from: here, to: at, count: fits },
      { from: here + fits, to: sinks, count: near - here - fits },
    ];
    let to = 0;
    const source = held.map(({ from, count }) => ({ from, to: (to += count) - count, count }));
    using keys = gpu.alloc("keys to append", "u32", [kvHeads, near, headDim / 2]);
    using values = gpu.alloc("values to append", "u32", [kvHeads, near, headDim / 2]);
    await gpu.settle();
    this.#dropRing();
    for (const [i, layer] of this.#layers.entries()) {
      for (const [side, rows] of [["keys", keys], ["values", values]] as const) {
        const { exact, codes, scales } = layer[side], name = `layers.${i}.${side}`, commands = gpu.commands("append");
        const halves = await read(`${name}.exact`);
        if (side === "keys" && length > 0) turnKeys(new Float16Array(halves), frequencies, length - skip);
        copyRows(commands, exact, rows, source);
        commands.submit();
        writeRows(gpu, rows, new Uint16Array(halves), [{ from: skip, to: own, count: come }]);
        gpu.write(codes, new Uint32Array(await read(`${name}.codes`)), base * codes.shape[1]! * codes.shape[2]! * 4);
        gpu.write(scales, new Uint16Array(await read(`${name}.scales`)), base * BLOCK * 2);
      }
      const commands = gpu.commands("append");
      if (tokens > 0) this.#encode(commands, i, keys, values, lead, first);
      copyRows(commands, keys, layer.keys.exact, target);
      copyRows(commands, values, layer.values.exact, target);
      commands.submit();
      for (const side of theirs > 0 ? ["keys", "values"] as const : []) {
        const { more } = layer[side], name = `layers.${i}.${side}`;
        if (!more) continue;
        const index = new Uint32Array(await read(`${name}.index`)),
          further = new Uint32Array(await read(`${name}.further`));
        await this.#appendFurther(i, side, more, base, endOf(before), index, further);
      }
    }
    await gpu.settle();
    this.#state = this.#next = next;
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}

/**
 * Moves head k's tokens in an index `[blocks][K][2]` of further codes `taken` ranks on. Those of ranks that there is no
 * `room` for lose theirs. Returns how many ranks there are beside the taken.
 */
function shiftRanks(index: Uint32Array, kvHeads: number, k: number, taken: number, room: number): number {
  let end = taken;
  for (let at = 2 * k; at < index.length; at += 2 * kvHeads) {
    end = Math.min(taken + index[at + 1]!, room);
    index[at + 1] = end;
    for (let mask = index[at]!; mask !== 0; mask &= mask - 1) {
      if (end < room) end++;
      else index[at]! &= ~(mask & -mask);
    }
  }
  return end - taken;
}

function bitCount(mask: number): number {
  let bits = 0;
  for (; mask !== 0; mask &= mask - 1) bits++;
  return bits;
}
