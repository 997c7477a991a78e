/**
 * Attention of one new token to packed codes, by the kernels that score keys and sum values.
 *
 * @module
 */
import type { CodecShape } from "../core/codec.ts";
import { BLOCK } from "../core/pack.ts";
import { attnCodesMassShapes, codeScoresShape, qTableShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { elements, type Tensor } from "../gpu/tensor.ts";
import { AttnCodesMass, type AttnCodesMassVariant, chooseAttnCodesMass } from "./attn_codes_mass.ts";
import { AttnCodesScores, type AttnCodesScoresVariant, chooseAttnCodesScores } from "./attn_codes_scores.ts";
import { AttnCodesValues, chooseAttnCodesValues } from "./attn_codes_values.ts";
import { AttnCodesWords } from "./attn_codes_words.ts";
import { codeQuads, type CodesDevice, type TableLayout } from "./packed_codes.ts";
import { QTable } from "./q_table.ts";

/** Bytes of scores that are kept between the kernels; longer streams go in rounds. */
const SCORES_BYTES = 32 * 2 ** 20;

/** Axes of attention to packed codes. */
export interface AttnCodesDims {
  readonly qHeads: number;
  readonly kvHeads: number;
  readonly keys: CodecShape;
  readonly values: CodecShape;
}

/** How keys are scored, and how values are summed: decoded, or as mass of words. */
export interface AttnCodesVariant {
  readonly keys: AttnCodesScoresVariant;
  readonly values: { readonly decode: TableLayout } | { readonly mass: AttnCodesMassVariant };
}

/** A stream's tokens, packed: `table` and `scales` in half precision, `codes u32 [blocks][K][bits]`. */
export interface PackedVectors {
  readonly table: Tensor;
  readonly codes: Tensor;
  readonly scales: Tensor;
  /** Further codes (core/pack.ts), where the codec has tiers. */
  readonly more?: Tensor;
}

/** What attention reads and writes. */
export interface AttnCodesIo {
  /** `f32 [Q][D]`, rotated and scaled by `1/sqrt(D)`. */
  readonly q: Tensor;
  readonly keys: PackedVectors;
  readonly values: PackedVectors;
  readonly ropeTable: Tensor;
  readonly partialO: Tensor;
  readonly partialMd: Tensor;
}

/** Which tokens of the stream are attended to. */
export interface AttnCodesParams {
  /** First token of the stream that is attended to, a multiple of 32. */
  readonly first?: number;
  readonly tokens: number;
  /** Position of the stream's token 0. */
  readonly base?: number;
  /** First partial state. */
  readonly state?: number;
}

/**
 * Picks the variant: keys are decoded once for all query heads; values are summed as mass where all stages are of pairs
 * and the mass fits a workgroup, else decoded. Pure.
 */
export function chooseAttnCodes(dims: AttnCodesDims, device: CodesDevice): AttnCodesVariant {
  const { qHeads, kvHeads } = dims, keys = chooseAttnCodesScores({ qHeads, kvHeads, codec: dims.keys }, device);
  const values = { qHeads, kvHeads, codec: dims.values }, mass = chooseAttnCodesMass(values, device);
  if (mass?.heads === keys.heads) return { keys, values: { mass } };
  return { keys, values: { decode: chooseAttnCodesValues(values, device) } };
}

/** Attention of one token's queries to packed codes, as partial states for `AttnMerge`. Owns what passes between kernels. */
export class AttnCodes implements Disposable {
  readonly #owned: DisposableStack;
  readonly #keyQuads: Tensor;
  readonly #valueQuads: Tensor;
  readonly #scores: Tensor;
  readonly #qTable: { op: QTable; out: Tensor } | undefined;
  readonly #values:
    | { decode: AttnCodesValues }
    | { mass: AttnCodesMass; words: AttnCodesWords; masses: Tensor; massMd: Tensor };

  private constructor(
    gpu: Gpu,
    readonly dims: AttnCodesDims,
    readonly capacity: number,
    readonly scores: AttnCodesScores,
    values: { decode: AttnCodesValues } | { mass: AttnCodesMass; words: AttnCodesWords },
    qTable: QTable | undefined,
  ) {
    using owned = new DisposableStack();
    const { qHeads, kvHeads, keys } = dims, { variant: { heads } } = scores, of = { qHeads, kvHeads, heads };
    const quads = (label: string, codec: CodecShape): Tensor =>
      owned.use(gpu.upload(label, "u32", [codec.stages.length, codec.headDim / 8, 2], codeQuads(codec)));
    this.#keyQuads = quads("key quads", keys);
    this.#valueQuads = quads("value quads", dims.values);
    const most = SCORES_BYTES / 4 / elements(codeScoresShape({ ...of, capacity: 1 }));
    const round = Math.min(Math.ceil(capacity / BLOCK), Math.max(1, Math.floor(most / BLOCK))) * BLOCK;
    this.#scores = owned.use(gpu.alloc("scores", "f32", codeScoresShape({ ...of, capacity: round })));
    if (qTable) {
      const out = owned.use(gpu.alloc("queries times words", "f32", qTableShapes({ ...of, codec: keys }).out));
      this.#qTable = { op: qTable, out };
    }
    if ("mass" in values) {
      const splits = values.mass.splits(round), all = { ...of, codec: dims.values, splits, capacity: round };
      const { mass, massMd } = attnCodesMassShapes({ ...all, codeBlocks: 0 });
      const masses = owned.use(gpu.alloc("mass of words", "f32", mass));
      this.#values = { ...values, masses, massMd: owned.use(gpu.alloc("mass maxima and sums", "f32", massMd)) };
    } else this.#values = values;
    this.#owned = owned.move();
  }

  /**
   * Compiles the kernels and allocates what passes between them.
   *
   * @param capacity most tokens of a stream
   */
  static async create(
    gpu: Gpu,
    dims: AttnCodesDims,
    capacity: number,
    { variant = chooseAttnCodes(dims, gpu) }: { variant?: AttnCodesVariant } = {},
  ): Promise<AttnCodes> {
    const { qHeads, kvHeads } = dims;
    const keys = { qHeads, kvHeads, codec: dims.keys }, values = { qHeads, kvHeads, codec: dims.values };
    const scores = await AttnCodesScores.create(gpu, keys, { variant: variant.keys });
    const qTable = variant.keys.isCommuted ? await QTable.create(gpu, keys) : undefined;
    const sum = "decode" in variant.values
      ? { decode: await AttnCodesValues.create(gpu, values, { variant: variant.values.decode }) }
      : {
        mass: await AttnCodesMass.create(gpu, values, variant.values.mass),
        words: await AttnCodesWords.create(gpu, values, variant.values.mass.heads),
      };
    return new AttnCodes(gpu, dims, capacity, scores, sum, qTable);
  }

  /** Bytes allocated: of scores, between rounds, and of the tables of its own. */
  get bytes(): number {
    const tensors = [this.#keyQuads, this.#valueQuads, this.#scores, this.#qTable?.out];
    if ("mass" in this.#values) tensors.push(this.#values.masses, this.#values.massMd);
    return tensors.reduce((sum, tensor) => sum + (tensor?.byteLength ?? 0), 0);
  }

  /** Partial states that {@linkcode encode} writes for `tokens`. */
  states(tokens: number): number {
    let states = 0;
    for (const count of this.#rounds(tokens)) {
      states += "decode" in this.#values ? this.#values.decode.states(count) : this.#values.words.states;
    }
    return states;
  }

  /** Writes the partial states `state` and on, and returns how many: none for no tokens. */
  encode(
    commands: Commands,
    io: AttnCodesIo,
    { tokens, first: start = 0, base = 0, state = 0 }: AttnCodesParams,
  ): number {
    if (start % BLOCK !== 0 || start + tokens > this.capacity) {
      throw new RangeError(
        `Cannot attend to ${tokens} tokens from ${start} on as they must begin a block and there is room for ${this.capacity}`,
      );
    }
    const { q, keys, values, ropeTable, partialO, partialMd } = io,
      { codes, scales, more } = keys,
      scores = this.#scores;
    const queries = { q, ropeTable, scores, codes, scales, more, quads: this.#keyQuads };
    if (tokens > 0) this.#qTable?.op.encode(commands, { q, table: keys.table, out: this.#qTable.out });
    let first = start, to = state;
    for (const count of this.#rounds(tokens)) {
      const round = { first, tokens: count };
      this.scores.encode(commands, { ...queries, table: this.#qTable?.out ?? keys.table }, { ...round, base });
      const sums = this.#values;
      if ("decode" in sums) {
        const tensors = { ...values, scores, quads: this.#valueQuads, partialO, partialMd };
        to += sums.decode.encode(commands, tensors, { ...round, state: to });
      } else {
        const { masses: mass, massMd } = sums;
        sums.mass.encode(commands, { scores, codes: values.codes, scales: values.scales, mass, massMd }, round);
        const splits = sums.mass.splits(count), tensors = { mass, massMd, table: values.table, partialO, partialMd };
        to += sums.words.encode(commands, tensors, { splits, state: to });
      }
      first += count;
    }
    return to - state;
  }

  /** Tokens of each round. */
  *#rounds(tokens: number): Generator<number> {
    const most = this.#scores.shape[2]!;
    for (let first = 0; first < tokens; first += most) yield Math.min(most, tokens - first);
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}
