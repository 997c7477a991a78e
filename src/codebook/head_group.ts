/**
 * Residuals of a few heads on the GPU, and the steps of training and measuring that run over all of them at once.
 *
 * @module
 */
import { type Stage, stageRows } from "../core/codec.ts";
import { BLOCK, blocks } from "../core/pack.ts";
import type { Rng } from "../core/rng.ts";
import {
  codeGramShapes,
  emAccumulateShapes,
  emAssignShapes,
  type EmDims,
  emSoftenShapes,
  residualShape,
  stageSizes,
  type VectorDims,
} from "../core/shapes.ts";
import { type Gpu, Staging } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { CodeGram } from "../kernels/code_gram.ts";
import { CodeMetric } from "../kernels/code_metric.ts";
import { CodeResidual } from "../kernels/code_residual.ts";
import { EmAccumulate } from "../kernels/em_accumulate.ts";
import { EmAssign } from "../kernels/em_assign.ts";
import { EmReduce } from "../kernels/em_reduce.ts";
import { EmSoften } from "../kernels/em_soften.ts";
import type { Moments } from "./solve.ts";

/**
 * Vectors of one layer, keys before RoPE or values, in parts of whole blocks of 32 tokens (the last may be any).
 *
 * A part on the host is `[T][K·D]`, heads side by side. On the GPU, `rows` are `f32 [T][any]` with the heads side by side
 * from number `offset` on, and a `cache` is `u32 [K][T][D/2]`, two channels in half precision a word.
 */
export interface Vectors {
  readonly form: "rows" | "cache";
  readonly parts: readonly (Float32Array | Tensor)[];
  readonly offset?: number;
}

/** Numbers that are uploaded at a time. */
const UPLOAD = 2 ** 24;

/** Tokens of all parts. */
export function tokensOf({ form, parts }: Vectors, { kvHeads, headDim }: VectorDims): number {
  return parts.reduce((sum, part) => sum + partTokens(part, form, kvHeads * headDim), 0);
}

function partTokens(part: Float32Array | Tensor, form: "rows" | "cache", features: number): number {
  return part instanceof Float32Array ? part.length / features : part.shape[form === "rows" ? 0 : 1]!;
}

/** Bytes of GPU memory that each head of a group takes. */
export function headBytes(headDim: number, tokens: number, stages: readonly Stage[], isSoft: boolean): number {
  let most = 0;
  for (const stage of stages) {
    const { groups, sums, gram } = stageSizes(headDim, stage);
    const perToken = 4 * (groups + 1 + (isSoft ? 128 + 64 : 0));
    most = Math.max(most, perToken * tokens + 4 * sums * (Math.ceil(tokens / 1024) + 2) + 4 * gram);
  }
  return most + 4 * headDim * tokens;
}

/** What one E step tells of each head. */
export interface HeadStep extends Moments {
  /** Squared distances of normalised residuals to their words, summed. */
  readonly loss: number;
  /** The same of the vectors themselves: each token's times its squared scale. */
  readonly scaledLoss: number;
}

interface StageTools {
  readonly dims: EmDims;
  readonly gram: CodeGram;
  readonly assign: EmAssign;
  readonly accumulate: EmAccumulate;
  readonly soften: EmSoften | undefined;
  readonly io: Record<
    "table" | "gramOut" | "codes" | "distances" | "weights" | "parts" | "sums" | "out" | "counts",
    Tensor
  >;
  readonly staging: Staging;
  readonly owned: DisposableStack;
}

/** Heads `[head, head + heads)` of a layer. Dispose it to free its memory. */
export class HeadGroup implements Disposable {
  readonly #owned = new DisposableStack();
  readonly #residual: Tensor;
  readonly #scales: Tensor;
  #tools: StageTools | undefined;

  private constructor(
    readonly gpu: Gpu,
    readonly dims: VectorDims,
    readonly head: number,
    readonly heads: number,
    readonly tokens: number,
    readonly isSoft: boolean,
    readonly reduce: EmReduce,
  ) {
    const { headDim } = dims, shape = residualShape({ headDim, heads, tokens });
    this.#residual = this.#owned.use(gpu.alloc("residuals", "f32", shape));
    this.#scales = this.#owned.use(gpu.alloc("scales", "f16", [blocks(tokens) * BLOCK]));
  }

  /**
   * Loads heads of `vectors`: every token's are divided by the scale of all its heads, then taken to the space of `metric`,
   * half-precision bits `[K][D][D]`, if there is one.
   */
  static async create(
    gpu: Gpu,
    dims: VectorDims,
    vectors: Vectors,
    { head, heads, isSoft = false, metric }: { head: number; heads: number; isSoft?: boolean; metric?: Uint16Array },
  ): Promise<HeadGroup> {
    const tokens = tokensOf(vectors, dims);
    const group = new HeadGroup(gpu, dims, head, heads, tokens, isSoft, await EmReduce.create(gpu));
    try {
      await group.#load(vectors);
      if (metric) await group.#apply(metric);
      return group;
    } catch (error) {
      group[Symbol.dispose]();
      throw error;
    }
  }

  async #load({ form, parts, offset = 0 }: Vectors): Promise<void> {
    const { gpu, dims } = this, features = dims.kvHeads * dims.headDim;
    const op = await CodeResidual.create(gpu, dims, form);
    const step = Math.max(BLOCK, Math.floor(UPLOAD / features / BLOCK) * BLOCK);
    let at = 0;
    const take = (source: Tensor, tokens: number): void => {
      const commands = gpu.commands("load residuals");
      const io = { source, ropeTable: source, scales: this.#scales, residual: this.#residual };
      const span = { tokens, head: this.head, block: at / BLOCK, scale: at };
      op.encode(commands, io, { ...span, offset: form === "rows" ? offset : 0 });
      commands.submit();
      at += tokens;
    };
    for (const part of parts) {
      if (at % BLOCK !== 0) {
        throw new RangeError(
          `Cannot train as every part but the last must be whole blocks of 32 tokens: one ends at ${at}`,
        );
      }
      if (!(part instanceof Float32Array)) take(part, partTokens(part, form, features));
      else {
        for (let first = 0; first < part.length / features; first += step) {
          const rows = part.subarray(first * features, (first + step) * features);
          using source = gpu.upload("vectors", "f32", [rows.length / features, features], rows);
          take(source, rows.length / features);
        }
      }
    }
  }

  async #apply(metric: Uint16Array): Promise<void> {
    const { gpu, head, heads } = this, { headDim } = this.dims, size = headDim ** 2;
    const op = await CodeMetric.create(gpu, headDim), commands = gpu.commands("metric");
    const own = metric.subarray(head * size, (head + heads) * size);
    using matrices = gpu.upload("metric", "u32", [heads, headDim, headDim / 2], own);
    op.encode(commands, { residual: this.#residual, metric: matrices }, blocks(this.tokens));
    commands.submit();
  }

  /** Makes ready for a stage. */
  async begin(stage: Stage): Promise<void> {
    this.#tools?.owned.dispose();
    this.#tools = undefined;
    const { gpu, heads, tokens } = this, { headDim } = this.dims;
    using owned = new DisposableStack();
    const isSoft = this.isSoft && stage.kind === "pair";
    const dims = { headDim, heads, tokens, stage }, codec = { headDim, stages: [stage] };
    const { table, codes, distances } = emAssignShapes(dims), { weights, sums } = emAccumulateShapes(dims);
    const { counts: parts } = emSoftenShapes(dims), { cells, sums: width } = stageSizes(headDim, stage);
    const alloc = (label: string, dtype: "f32" | "u32", shape: readonly number[]) =>
      owned.use(gpu.alloc(label, dtype, shape));
    const io = {
      table: alloc("words", "u32", table),
      gramOut: alloc("gram", "f32", codeGramShapes(heads, codec).gram),
      codes: alloc("codes", "u32", codes),
      distances: alloc("distances", "f32", distances),
      weights: isSoft ? alloc("weights", "f32", weights) : this.#scales,
      sums: alloc("sums", "f32", sums),
      parts: isSoft ? alloc("soft counts", "f32", parts) : this.#scales,
      out: alloc("moments", "f32", [heads, width]),
      counts: isSoft ? alloc("counts", "f32", [heads, cells]) : this.#scales,
    };
    const tools = {
      ...{ dims, io },
      gram: await CodeGram.create(gpu, codec),
      assign: await EmAssign.create(gpu, headDim, stage),
      accumulate: await EmAccumulate.create(gpu, headDim, stage, isSoft),
      soften: isSoft ? await EmSoften.create(gpu, headDim) : undefined,
      staging: owned.use(new Staging(gpu, io.out.byteLength + (isSoft ? io.counts.byteLength : 0))),
    };
    this.#tools = { ...tools, owned: owned.move() };
  }

  /**
   * Submits an E step with `words`, half-precision bits `[heads][rows][D]`; {@linkcode read} brings what comes of it. A
   * soft group's sums are those of `temperature`; with `keep`, the words are taken off the residuals.
   */
  submit(words: Uint16Array, { temperature = 0, keep = false }: { temperature?: number; keep?: boolean } = {}): void {
    const { dims, io, gram, assign, accumulate, soften, staging } = this.#tools!, { gpu, heads } = this;
    const residual = this.#residual, scales = this.#scales, commands = gpu.commands("em step");
    gpu.write(io.table, words);
    gram.encode(commands, { table: io.table, gram: io.gramOut }, heads);
    const stage = { residual, table: io.table, gram: io.gramOut };
    if (soften && temperature > 0) {
      soften.encode(commands, { ...stage, weights: io.weights, counts: io.parts }, dims, temperature);
      this.reduce.encode(commands, { parts: io.parts, out: io.counts });
    }
    assign.encode(commands, { ...stage, codes: io.codes, distances: io.distances }, dims, keep);
    accumulate.encode(commands, { ...io, residual, scales }, dims);
    this.reduce.encode(commands, { parts: io.sums, out: io.out });
    staging.copy(commands, io.out);
    if (soften) staging.copy(commands, io.counts, io.out.byteLength);
    commands.submit();
  }

  /** What the submitted step found, head by head. */
  async read(): Promise<HeadStep[]> {
    const { dims, soften, staging } = this.#tools!, numbers = new Float32Array(await staging.read());
    const { sums: width, cells } = stageSizes(dims.headDim, dims.stage), last = width - 4, { tokens } = this;
    const soft = numbers.subarray(this.heads * width);
    return Array.from({ length: this.heads }, (_, h) => {
      const own = numbers.subarray(h * width, (h + 1) * width);
      return {
        tokens,
        sums: widened(own.subarray(0, last - cells)),
        counts: widened(soften ? soft.subarray(h * cells, (h + 1) * cells) : own.subarray(last - cells, last)),
        loss: own[last]!,
        scaledLoss: own[last + 1]!,
      };
    });
  }

  /** Residuals drawn at random, `count` a head: `[count][D]`, from blocks of eight each. */
  async draw(count: number, rngs: readonly Rng[]): Promise<Float32Array[]> {
    const { headDim } = this.dims, size = headDim * BLOCK, all = blocks(this.tokens), picks = Math.ceil(count / 8);
    using staging = new Staging(this.gpu, 4 * size * picks * this.heads);
    const commands = this.gpu.commands("draw"), tokens: number[] = [];
    for (let i = 0; i < picks * this.heads; i++) {
      const head = Math.floor(i / picks), block = rngs[head]!.below(all), at = (head * all + block) * size;
      staging.copy(commands, this.#residual.view(at, [headDim, BLOCK]), 4 * size * i);
      const valid = Math.min(BLOCK, this.tokens - block * BLOCK), start = rngs[head]!.below(BLOCK);
      for (let j = 0; j < 8; j++) tokens.push((start + 4 * j) % BLOCK % valid);
    }
    commands.submit();
    const numbers = new Float32Array(await staging.read());
    return Array.from({ length: this.heads }, (_, h) => {
      const out = new Float32Array(count * headDim);
      for (let i = 0; i < count; i++) {
        const pick = h * picks + (i >> 3), token = tokens[8 * pick + (i & 7)]!;
        for (let c = 0; c < headDim; c++) out[i * headDim + c] = numbers[pick * size + c * BLOCK + token]!;
      }
      return out;
    });
  }

  [Symbol.dispose](): void {
    this.#tools?.owned.dispose();
    this.#owned.dispose();
  }
}

/** The same numbers in f64: a loop takes a tenth of the time of `from` or `set`. */
function widened(numbers: Float32Array): Float64Array {
  const out = new Float64Array(numbers.length);
  for (let i = 0; i < out.length; i++) out[i] = numbers[i]!;
  return out;
}

/** Words of `rows` zeros a head: the distances to them are the residuals' squared lengths. */
export function zeroWords(heads: number, stage: Stage, headDim: number): Uint16Array {
  return new Uint16Array(heads * stageRows(stage) * headDim);
}
