/**
 * Every axis and every tensor. Host checks, references, tests and benches read shapes here and nowhere else.
 *
 * Axes, outermost first: tokens T, query heads Q, key/value heads K, head dimension D, rotary pairs P (= D/2), stages
 * S, codewords W, splits I of the context, rows R (a query head of a token).
 *
 * @module
 */
import {
  codeBits,
  type CodecShape,
  fields,
  PAIR_WORDS,
  rawCount,
  type Stage,
  stageRows,
  SUB_WORDS,
  tableRows,
} from "./codec.ts";
import type { WeightType } from "./model.ts";
import { BLOCK, blocks } from "./pack.ts";
import { weightLayout } from "./weight_layout.ts";

type Shape = readonly number[];

/** Axes of {@linkcode attnMergeShapes}. */
export interface AttnMergeDims {
  readonly rows: number;
  readonly splits: number;
  readonly headDim: number;
}

/** Tensors of `attn_merge`. */
export function attnMergeShapes(
  { rows, splits, headDim }: AttnMergeDims,
): Record<"partialO" | "partialMd" | "out", Shape> {
  return { partialO: [splits, rows, headDim], partialMd: [splits, rows, 2], out: [rows, headDim] };
}

/** Axes of the exact attention kernels: tokens that are new, heads, and slots of the cache. */
export interface AttnDims {
  readonly tokens: number;
  readonly qHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly capacity: number;
}

/** Keys, or values, of an exact cache: word j of a slot holds channels 2j and 2j + 1 in half precision. */
export function exactCacheShape({ kvHeads, capacity, headDim }: Omit<AttnDims, "tokens" | "qHeads">): Shape {
  return [kvHeads, capacity, headDim / 2];
}

/** Tensors of `rope_store`; `tableRows` as `ropeTableRows` counts them. */
export function ropeStoreShapes(
  dims: AttnDims & { readonly tableRows: number },
): Record<"qkv" | "ropeTable" | "q" | "keys" | "values", Shape> {
  const { tokens, qHeads, kvHeads, headDim, tableRows } = dims, cache = exactCacheShape(dims);
  return {
    qkv: [tokens, (qHeads + 2 * kvHeads) * headDim],
    ropeTable: [tableRows, headDim / 2, 2],
    q: [tokens, qHeads, headDim],
    keys: cache,
    values: cache,
  };
}

/** Tensors of `cache_round`. */
export function cacheRoundShapes(
  dims: Omit<AttnDims, "tokens" | "qHeads">,
): Record<"source" | "rounded", Shape> {
  return { source: exactCacheShape(dims), rounded: exactCacheShape(dims) };
}

/** Tensors of `attn_step`; `states` counts the partial states that the outputs have room for. */
export function attnStepShapes(
  dims: Omit<AttnDims, "tokens"> & { readonly states: number; readonly tableRows: number },
): Record<"qkv" | "ropeTable" | "keys" | "values" | "q" | "partialO" | "partialMd", Shape> {
  const { qHeads, headDim, states } = dims;
  return {
    ...ropeStoreShapes({ ...dims, tokens: 1 }),
    partialO: [states, qHeads, headDim],
    partialMd: [states, qHeads, 2],
  };
}

/** Where `attn_step` puts a token, and what that sees. */
export interface StepTokens {
  readonly position: number;
  /** Its slot. Default its position. */
  readonly slot?: number;
  /** Tokens that it sees, itself included: those of the first slots, but for a gap. Default `position + 1`. */
  readonly seen?: number;
  /** Slots of no token, `gap` of them from `hole` on. */
  readonly hole?: number;
  readonly gap?: number;
  /** Splits of the tokens. */
  readonly splits?: number;
}

/** Tensors of `attn_prefill`: `out` is one of `states` partial states where there are any, else the attention itself. */
export function attnPrefillShapes(
  dims: AttnDims & { readonly states?: number },
): Record<"q" | "keys" | "values" | "out" | "md", Shape> {
  const { tokens, qHeads, headDim, states } = dims, cache = exactCacheShape(dims);
  return {
    q: [tokens, qHeads, headDim],
    keys: cache,
    values: cache,
    out: states === undefined ? [tokens, qHeads * headDim] : [states, tokens * qHeads, headDim],
    md: [states ?? 1, tokens * qHeads, 2],
  };
}

/** Which of {@linkcode GemmDims}'s matrices lie transposed, and whether the product is a linear layer's with bias. */
export interface GemmForm {
  readonly aT?: boolean;
  readonly bT?: boolean;
  readonly bias?: boolean;
}

/** A batch of products [m][k] x [k][n]; with `splits`, parts of the sums over k, for gradients in slabs. */
export interface GemmDims {
  readonly batch: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Numbers from one matrix of b to the next, where more than its own lie between. */
  readonly bStride?: number;
  /** Parts of k, `apart` numbers from each other in c; matrices of a part are `stride` apart. */
  readonly splits?: { readonly count: number; readonly apart: number; readonly stride: number };
}

/** Tensors of `gemm`. A linear layer's parameters are its weight [n][k] and bias [n] in one row. */
export function gemmShapes(
  { aT, bT, bias }: GemmForm,
  { batch, m, n, k, bStride, splits }: GemmDims,
): Record<"a" | "b" | "c", Shape> {
  return {
    a: aT ? [batch, k, m] : [batch, m, k],
    b: bStride ? [batch, bStride] : !bT ? [batch, k, n] : bias ? [batch, n * k + n] : [batch, n, k],
    c: splits ? [(splits.count - 1) * splits.apart + batch * splits.stride] : [batch, m, n],
  };
}

/** The published value codec of one layer: `features` numbers a token, all heads' values, at 1 or 2 bits each. */
export interface ValueDims {
  /** Numbers of a token. */
  readonly features: number;
  /** Bits a number. */
  readonly bits: 1 | 2;
}

/** Widths that follow from {@linkcode ValueDims}: of the network, of a token's code, of its parameters. */
export interface ValueWidths {
  /** Symbols of four states, two bits each. */
  readonly symbols: number;
  /** Logits: four a symbol. */
  readonly outputs: number;
  /** Bits, and rows of the codebook. */
  readonly codes: number;
  /** Words of 32 bits. */
  readonly words: number;
  readonly hidden: number;
  /** First linear layer with the layer norm folded in: weight [hidden][features], bias. */
  readonly folded: number;
  /** The same in training: weight, bias, and the layer norm's gain and offset. */
  readonly linear1: number;
  /** Weight [outputs][hidden], bias. */
  readonly linear2: number;
  /** [codes][features]. */
  readonly codebook: number;
}

/** Widths of the published value codec. Throws `RangeError` unless features fill whole words at 1 bit. */
export function valueWidths({ features, bits }: ValueDims): ValueWidths {
  if (!(features > 0) || features % 32 !== 0) {
    throw new RangeError(`Cannot code values as their number per token must be a multiple of 32: it is ${features}`);
  }
  if (bits !== 1 && bits !== 2) throw new RangeError(`Cannot code values as bits must be 1 or 2: current is ${bits}`);
  const codes = features * bits, outputs = 2 * codes, hidden = Math.min(4096, outputs);
  const folded = hidden * features + hidden;
  return {
    symbols: codes / 2,
    outputs,
    codes,
    words: codes / 32,
    hidden,
    folded,
    linear1: folded + 2 * features,
    linear2: outputs * hidden + outputs,
    codebook: codes * features,
  };
}

/** Axes of the value encoder's kernels: a batch of `tokens` for each of `layers`. */
export interface ValueBatch {
  readonly layers: number;
  readonly tokens: number;
}

/** Tensors of `layer_norm`; `rows` counts the values that it picks from. */
export function layerNormShapes(
  { layers, tokens, rows, features }: ValueBatch & { readonly rows: number; readonly features: number },
): Record<"values" | "scale" | "normed" | "stats", Shape> {
  return {
    values: [rows, features],
    scale: [layers, features],
    normed: [layers, tokens, features],
    stats: [layers, tokens, 4],
  };
}

/** Tensors of `layer_norm_fold`; for gradients `folded` is `slabs.count` slabs, `slabs.apart` numbers apart. */
export function layerNormFoldShapes(
  layers: number,
  { linear1, folded }: Pick<ValueWidths, "linear1" | "folded">,
  slabs?: { readonly count: number; readonly apart: number },
): Record<"linear" | "folded", Shape> {
  return {
    linear: [layers, linear1],
    folded: slabs ? [(slabs.count - 1) * slabs.apart + layers * linear1] : [layers, folded],
  };
}

/** Tensors of `gumbel_bits`. */
export function gumbelBitsShapes(
  { layers, tokens, symbols }: ValueBatch & { readonly symbols: number },
): Record<"logits" | "bits" | "words", Shape> {
  return {
    logits: [layers, tokens, 4 * symbols],
    bits: [layers, tokens, 2 * symbols],
    words: [layers * tokens, symbols / 16],
  };
}

/** Tensors of `gumbel_bits_decode`. */
export function gumbelBitsDecodeShapes(
  { tokens, words, features }: { readonly tokens: number; readonly words: number; readonly features: number },
): Record<"words" | "scales" | "codebook" | "scale" | "out", Shape> {
  return {
    words: [tokens, words],
    scales: [tokens],
    codebook: [32 * words, features],
    scale: [features],
    out: [tokens, features],
  };
}

/** Tensors of `unit_norm`. */
export function unitNormShapes(
  { layers, tokens, features }: ValueBatch & { readonly features: number },
): Record<"normed" | "stats" | "scale" | "v" | "scales" | "errors", Shape> {
  return {
    normed: [layers, tokens, features],
    stats: [layers, tokens, 4],
    scale: [layers, features],
    v: [layers, tokens, features],
    scales: [layers * tokens],
    errors: [layers, tokens, 2],
  };
}

/** Tensors of `adamw` for `count` parameters and gradients in `slabs` parts. */
export function adamwShapes(
  count: number,
  slabs: number,
): Record<"parameters" | "gradients" | "mean" | "square", Shape> {
  return { parameters: [count], gradients: [slabs, count], mean: [count], square: [count] };
}

/** Tensors of `channel_sums` for `chunks` of rows. */
export function channelSumsShapes(rows: number, features: number, chunks: number): Record<"values" | "out", Shape> {
  return { values: [rows, features], out: [chunks, features, 4] };
}

/** A weight matrix, or a part of one. */
export interface WeightDims {
  readonly type: WeightType;
  readonly rows: number;
  readonly cols: number;
}

/** The two buffers of a weight matrix: words of four bytes, and scales in half precision. */
export function weightShapes({ type, rows, cols }: WeightDims): Record<"weights" | "scales", Shape> {
  const { dataBytes, scales } = weightLayout(type, cols);
  return { weights: [rows, dataBytes / 4], scales: [rows, scales] };
}

/** Tensors of `matvec`; x and out may be rows of larger ones. */
export function matvecShapes(
  dims: WeightDims & { readonly gated?: boolean },
): Record<"weights" | "scales" | "x" | "gain" | "out", Shape> {
  const { rows, cols, gated } = dims;
  return { ...weightShapes(dims), x: [cols], gain: [cols], out: [gated ? rows / 2 : rows] };
}

/** Tensors of `matmul`; `stride` is the width of out, by default what the product fills. */
export function matmulShapes(
  dims: WeightDims & { readonly tokens: number; readonly stride?: number },
): Record<"weights" | "scales" | "x" | "out", Shape> {
  const { tokens, rows, cols, stride = rows } = dims;
  return { ...weightShapes(dims), x: [tokens, cols], out: [tokens, stride] };
}

/** Tensors of `embed`. */
export function embedShapes(
  dims: WeightDims & { readonly tokens: number },
): Record<"weights" | "scales" | "ids" | "out", Shape> {
  const { tokens, cols } = dims;
  return { ...weightShapes(dims), ids: [tokens], out: [tokens, cols] };
}

/** Tensors of `sample` for a vocabulary of `vocab`; partials, sums and state are its scratch. */
export function sampleShapes(
  vocab: number,
): Record<"logits" | "bias" | "seen" | "partials" | "sums" | "state" | "record", Shape> {
  const groups = Math.ceil(vocab / 1024);
  return {
    logits: [1, vocab],
    bias: [vocab],
    seen: [Math.ceil(vocab / 32)],
    partials: [2, groups, 4],
    sums: [2, groups, 16],
    state: [16, 4],
    record: [2],
  };
}

/** Tensors of `score_rows`. */
export function scoreRowsShapes(
  { tokens, vocab }: { readonly tokens: number; readonly vocab: number },
): Record<"logits" | "targets" | "scores", Shape> {
  return { logits: [tokens, vocab], targets: [tokens], scores: [tokens, 4] };
}

/** Tensors of `kl_rows`. */
export function klRowsShapes(
  { tokens, vocab }: { readonly tokens: number; readonly vocab: number },
): Record<"p" | "q" | "out", Shape> {
  return { p: [tokens, vocab], q: [tokens, vocab], out: [tokens] };
}

/** Tensors of `rms_norm`. */
export function rmsNormShapes(
  { tokens, hidden }: { readonly tokens: number; readonly hidden: number },
): Record<"x" | "gain" | "out", Shape> {
  return { x: [tokens, hidden], gain: [hidden], out: [tokens, hidden] };
}

/** Tensors of `gated_mlp` for `ffn` channels. */
export function gatedMlpShapes(
  { tokens, ffn }: { readonly tokens: number; readonly ffn: number },
): Record<"gateUp" | "out", Shape> {
  return { gateUp: [tokens, 2 * ffn], out: [tokens, ffn] };
}

/** Axes of training one stage: heads done at once, and their tokens, in blocks of 32. */
export interface EmDims {
  readonly headDim: number;
  readonly heads: number;
  readonly tokens: number;
  readonly stage: Stage;
}

/** Tokens of a chunk whose sums `em_accumulate` makes at a time. */
export const EM_CHUNK = 1024;

/** Groups of a stage, and its numbers a head: in `code_gram`'s result, counts of codes, and sums for an M step. */
export function stageSizes(
  headDim: number,
  stage: Stage,
): { readonly groups: number; readonly gram: number; readonly cells: number; readonly sums: number } {
  const groups = stage.kind === "pair" ? 1 : headDim / 2 / stage.pairs;
  const cells = stage.kind === "pair" ? PAIR_WORDS ** 2 : SUB_WORDS * groups;
  const gram = stage.kind === "pair" ? 2 * PAIR_WORDS + PAIR_WORDS ** 2 : SUB_WORDS * groups;
  return { groups, gram, cells, sums: stageRows(stage) * headDim + cells + 4 };
}

/** Residuals of heads: component 2d of a token is pair d's real part, 2d + 1 its imaginary part. */
export function residualShape({ headDim, heads, tokens }: Omit<EmDims, "stage">): Shape {
  return [heads, blocks(tokens), headDim, BLOCK];
}

/** Tensors of `em_assign`. */
export function emAssignShapes(
  dims: EmDims,
): Record<"residual" | "table" | "gram" | "codes" | "distances", Shape> {
  const { headDim, heads, tokens, stage } = dims, { groups, gram } = stageSizes(headDim, stage);
  return {
    residual: residualShape(dims),
    table: [heads, stageRows(stage), headDim / 2],
    gram: [heads, gram],
    codes: [heads, groups, blocks(tokens), BLOCK],
    distances: [heads, blocks(tokens), BLOCK],
  };
}

/** Tensors of `em_accumulate`; `codes` are read by hard assignment, `weights` by soft. */
export function emAccumulateShapes(
  dims: EmDims,
): Record<"residual" | "codes" | "weights" | "distances" | "scales" | "sums", Shape> {
  const { headDim, heads, tokens, stage } = dims, { residual, codes, distances } = emAssignShapes(dims);
  return {
    residual,
    codes,
    weights: [heads, blocks(tokens), BLOCK, 2 * PAIR_WORDS],
    distances,
    scales: [blocks(tokens) * BLOCK],
    sums: [heads, Math.ceil(tokens / EM_CHUNK), stageSizes(headDim, stage).sums],
  };
}

/** Tensors of `em_soften`; a part of the counts is two blocks. */
export function emSoftenShapes(dims: EmDims): Record<"residual" | "table" | "gram" | "weights" | "counts", Shape> {
  const { residual, table, gram } = emAssignShapes(dims), { weights } = emAccumulateShapes(dims);
  return { residual, table, gram, weights, counts: [dims.heads, Math.ceil(dims.tokens / BLOCK / 2), PAIR_WORDS ** 2] };
}

/** Tensors of `em_reduce`: rows of `width` numbers, `parts` of them a head. */
export function emReduceShapes(
  { heads, parts, width }: { readonly heads: number; readonly parts: number; readonly width: number },
): Record<"parts" | "out", Shape> {
  return { parts: [heads, parts, width], out: [heads, width] };
}

/** Tensors of `code_gram` for a codec's whole table, or one stage's. */
export function codeGramShapes(heads: number, codec: CodecShape): Record<"table" | "gram", Shape> {
  const { headDim, stages } = codec;
  return {
    table: [heads, tableRows(codec), headDim / 2],
    gram: [heads, stages.reduce((sum, stage) => sum + stageSizes(headDim, stage).gram, 0)],
  };
}

/** Tensors of `code_encode`: room for `capacity` tokens' residuals, and for `codeBlocks` blocks of codes. */
export function codeEncodeShapes(
  dims: { readonly codec: CodecShape; readonly heads: number; readonly capacity: number; readonly codeBlocks: number },
): Record<"residual" | "table" | "gram" | "fields" | "codes", Shape> {
  const { codec, heads, capacity, codeBlocks } = dims;
  return {
    residual: residualShape({ headDim: codec.headDim, heads, tokens: capacity }),
    ...codeGramShapes(heads, codec),
    fields: [fields(codec).length, 4],
    codes: [codeBlocks, heads, codeBits(codec)],
  };
}

/** Tensors of `code_metric`: a matrix a head, in the components' order, two halves in a word. */
export function codeMetricShapes(dims: Omit<EmDims, "stage">): Record<"residual" | "metric", Shape> {
  const { heads, headDim } = dims;
  return { residual: residualShape(dims), metric: [heads, headDim, headDim / 2] };
}

/** Tensors of `code_search`. */
export function codeSearchShapes(heads: number, codec: CodecShape): Record<"table" | "metric" | "search", Shape> {
  const { headDim } = codec, { table } = codeGramShapes(heads, codec);
  return { table, metric: [heads, headDim, headDim / 2], search: table };
}

/** Tensors of `code_beam`: those of `code_encode`, but for codes, of the first `stages` or all, that are not packed. */
export function codeBeamShapes(
  dims: Omit<Parameters<typeof codeEncodeShapes>[0], "codeBlocks"> & { readonly stages?: number },
): Record<"residual" | "table" | "gram" | "fields" | "raw", Shape> {
  const { codec, stages, heads, capacity } = dims,
    { residual, table, gram } = codeEncodeShapes({ ...dims, codeBlocks: 0 });
  const isCut = stages !== undefined && stages < codec.stages.length;
  const used = isCut ? { headDim: codec.headDim, stages: codec.stages.slice(0, stages) } : codec;
  const raw = [heads, blocks(capacity), BLOCK, rawCount(used)];
  return { residual, table, gram, fields: [fields(used).length, 4], raw };
}

/** Which of `tokens` tokens are missed, a bit each. */
export function missedShape(heads: number, tokens: number): Shape {
  return [heads, blocks(tokens)];
}

/** Tensors of `code_missed`: residuals of `tokens` tokens, and their scales among others. */
export function codeMissedShapes(
  dims: Omit<EmDims, "stage"> & { readonly scales: number },
): Record<"residual" | "scales" | "thresholds" | "missed", Shape> {
  const { heads, tokens, scales } = dims;
  return {
    ...{ residual: residualShape(dims), scales: [scales], thresholds: [heads] },
    missed: missedShape(heads, tokens),
  };
}

/** Tensors of `code_tier`. */
export function codeTierShapes(
  dims: {
    readonly codec: CodecShape;
    readonly heads: number;
    readonly capacity: number;
    readonly more: number;
  },
): Record<"missed" | "fields" | "all" | "raw" | "more", Shape> {
  const { codec, heads, capacity, more } = dims, { fields, raw } = codeBeamShapes(dims);
  return {
    ...{ missed: missedShape(heads, capacity), fields, all: raw },
    raw: codeBeamShapes({ codec, heads, capacity, stages: codec.base }).raw,
    more: [more],
  };
}

/** Tensors of `code_pack`: codes of `capacity` tokens, token by token, and `codeBlocks` packed blocks. */
export function codePackShapes(
  dims: Parameters<typeof codeEncodeShapes>[0],
): Record<"raw" | "fields" | "codes", Shape> {
  const { fields, codes } = codeEncodeShapes(dims);
  return { raw: [dims.heads, blocks(dims.capacity), BLOCK, fields[0]!], fields, codes };
}

/** Heads whose vectors share a token's scale. */
export interface VectorDims {
  /** Heads. */
  readonly kvHeads: number;
  /** Channels of a head. */
  readonly headDim: number;
}

/** Axes of one packed stream: a codec's codes of `codeBlocks` blocks of 32 tokens. */
export interface CodeDims {
  readonly codec: CodecShape;
  readonly kvHeads: number;
  readonly codeBlocks: number;
}

/** Tensors of a packed stream: `table` and `scales` in half precision; `quads` as `codeQuads` lays them out. */
export function codeShapes(
  { codec, kvHeads, codeBlocks }: CodeDims,
): Record<"table" | "codes" | "quads" | "scales", Shape> {
  return {
    table: [kvHeads, tableRows(codec), codec.headDim / 2],
    codes: [codeBlocks, kvHeads, codeBits(codec)],
    quads: [codec.stages.length, codec.headDim / 8, 2],
    scales: [codeBlocks * BLOCK],
  };
}

/** Tensors of `code_decode`; `tableRows` as `ropeTableRows` counts them. */
export function codeDecodeShapes(
  dims: CodeDims & { readonly capacity: number; readonly tableRows: number },
): Record<"table" | "codes" | "quads" | "scales" | "ropeTable" | "out", Shape> {
  const { kvHeads, codec: { headDim }, capacity, tableRows } = dims;
  return {
    ...codeShapes(dims),
    ropeTable: [tableRows, headDim / 2, 2],
    out: exactCacheShape({ kvHeads, capacity, headDim }),
  };
}

/** Tensors of `q_table`. */
export function qTableShapes(
  { qHeads, kvHeads, codec }: { readonly qHeads: number; readonly kvHeads: number; readonly codec: CodecShape },
): Record<"q" | "table" | "out", Shape> {
  const { headDim } = codec, rows = tableRows(codec);
  return { q: [qHeads, headDim], table: [kvHeads, rows, headDim / 2], out: [qHeads, rows, headDim / 2, 2] };
}

/** Scores of `capacity` tokens for chunks of `heads` query heads of each key/value head. */
export function codeScoresShape(
  dims: {
    readonly qHeads: number;
    readonly kvHeads: number;
    readonly heads: number;
    readonly capacity: number;
  },
): Shape {
  const { qHeads, kvHeads, heads, capacity } = dims;
  return [kvHeads, Math.ceil(qHeads / kvHeads / heads), capacity, heads];
}

/** Axes of `attn_codes_scores` and `attn_codes_values`, and of what passes between them. */
export interface CodeScoresDims extends CodeDims {
  readonly qHeads: number;
  readonly heads: number;
  readonly capacity: number;
}

/** Tensors of `attn_codes_scores`; `table` is a `q_table` where `isCommuted`. */
export function attnCodesScoresShapes(
  dims: CodeScoresDims & { readonly tableRows: number; readonly isCommuted?: boolean },
): Record<"q" | "table" | "codes" | "quads" | "scales" | "ropeTable" | "scores", Shape> {
  const { qHeads, codec, tableRows, isCommuted } = dims, { q, out } = qTableShapes(dims);
  const { table, ...rest } = codeShapes(dims);
  return {
    q,
    table: isCommuted ? out : table,
    ...rest,
    ropeTable: [tableRows, codec.headDim / 2, 2],
    scores: codeScoresShape({ ...dims, qHeads }),
  };
}

/** Tensors of `attn_codes_values`; `states` counts the partial states that the outputs have room for. */
export function attnCodesValuesShapes(
  dims: CodeScoresDims & { readonly states: number },
): Record<"scores" | "table" | "codes" | "quads" | "scales" | "partialO" | "partialMd", Shape> {
  const { qHeads, codec, states } = dims;
  return {
    scores: codeScoresShape(dims),
    ...codeShapes(dims),
    partialO: [states, qHeads, codec.headDim],
    partialMd: [states, qHeads, 2],
  };
}

/** Tensors of `attn_codes_mass` for `splits` of the tokens. */
export function attnCodesMassShapes(
  dims: CodeScoresDims & { readonly splits: number },
): Record<"scores" | "codes" | "scales" | "mass" | "massMd", Shape> {
  const { qHeads, kvHeads, heads, codec, splits } = dims, { codes, scales } = codeShapes(dims);
  const chunks = Math.ceil(qHeads / kvHeads / heads);
  return {
    ...{ scores: codeScoresShape(dims), codes, scales },
    mass: [splits, kvHeads, chunks, 2 * codec.stages.length, PAIR_WORDS, heads],
    massMd: [splits, kvHeads, chunks, heads, 2],
  };
}

/** Tensors of `attn_codes_words`. */
export function attnCodesWordsShapes(
  dims: Omit<CodeScoresDims, "codeBlocks" | "capacity"> & {
    readonly splits: number;
    readonly states: number;
  },
): Record<"mass" | "massMd" | "table" | "partialO" | "partialMd", Shape> {
  const { qHeads, codec: { headDim }, states } = dims, all = { ...dims, codeBlocks: 0, capacity: 0 };
  const { mass, massMd } = attnCodesMassShapes(all), { table } = codeShapes(all);
  return { mass, massMd, table, partialO: [states, qHeads, headDim], partialMd: [states, qHeads, 2] };
}
