/**
 * Measures what ways of keeping a cache do to a model.
 *
 * @module
 */
import { bitsAll, bitsEffective } from "../core/bits.ts";
import type { Llama } from "../llama/llama.ts";
import { inside } from "../llama/llama.ts";
import { type CodebookMethod, codebookMethod } from "./commvq.ts";
import { Forward, type LayerError } from "./forward.ts";
import {
  ANCHOR,
  baselineMethods,
  EXACT,
  expectBaselines,
  type Method,
  type Quantizer,
  quantizerMethod,
} from "./methods.ts";
import { Scorer } from "./scorer.ts";
import { type Difference, type LanguageFigures, pairedBootstrap, summarize, type TokenScores } from "./stats.ts";
import { type AnswerSpan, answerSpans, cellOf, depthOf, type Task } from "./tasks.ts";

/**
 * When queries see the compressed cache: from the text's middle on, its first half having been read exactly
 * (`deployment`: how a cache is used, and what papers report), or all through (`chunked`: errors compound over the whole
 * text, the harder test).
 */
export type Regime = "deployment" | "chunked";

/** Options of {@linkcode evaluate}. */
export interface EvaluateOptions {
  /** Published methods to compare, by name: `q8_0`, `kivi2`, `turbo1`, `kvquant2` and more (`BASELINE_NAMES`). */
  baselines?: readonly string[];
  /** Codebooks to measure, of this model. */
  codebooks?: readonly CodebookMethod[];
  /** Quantizers of your own. */
  quantizers?: readonly Quantizer[];
  /** Documents for perplexity and divergence. */
  texts?: readonly string[];
  /** Documents with answers in them. Here queries see the compressed cache from the first answer on. */
  tasks?: readonly Task[];
  /** Documents that `kvquant2` is calibrated on. */
  calibration?: readonly string[];
  /** `chunked` by default. */
  regime?: Regime;
  /** Newest tokens that a query sees exactly, its own included; 64 by default. */
  window?: number;
  /** First tokens that a query sees exactly; 4 by default. */
  sinks?: number;
  /** Texts are cut into chunks of so many tokens, each a document of its own; 4096 by default. */
  chunkTokens?: number;
  /** How many chunks: the first of each text, then the second of each, and so on. One a text by default. */
  chunks?: number;
  /** The method that others are compared with, paired by document; `fp16` by default. */
  base?: string;
  /** Called with tokens that have gone through a layer, and how many will in all. */
  onProgress?: (progress: { phase: string; done: number; total: number }) => void;
  /** Gives up. */
  signal?: AbortSignal;
}

/** Answers of one cell of tasks, as `passkey@4000`. */
export interface CellFigures {
  /** Answers right to the last token. */
  readonly right: number;
  /** Answers in all. */
  readonly all: number;
  /** Answers that the exact cache gets right and this one wrong. */
  readonly lost: number;
  /** The reverse. */
  readonly gained: number;
}

/** One method's figures. */
export interface MethodFigures extends Omit<LanguageFigures, "tokens"> {
  /** As tables call the method. */
  readonly name: string;
  /** What stands behind the name. */
  readonly about: string;
  /** Codes and scales, bits an element. */
  readonly bitsCode: number;
  /** With the window and the sinks, which are exact, at the mean length of the documents. */
  readonly bitsEffective: number;
  /** With codebooks and whatever else all tokens share, if one such document were all there is. */
  readonly bitsAll: number;
  /** Bytes that all tokens share. */
  readonly sharedBytes: number;
  /** How much of what far context is worth to the model is kept: 1 for the exact cache, 0 for the 0-bit anchor. */
  readonly contextKept: number;
  /** Share of right answers, by cell. */
  readonly tasks: Readonly<Record<string, number>>;
  /** Right answers and all, by cell. */
  readonly answers: Readonly<Record<string, CellFigures>>;
  /** Right answers by cell and where in the document, in fifths of its depth, the answer stood first. */
  readonly depths: readonly ({ readonly cell: string; readonly chars: number; readonly fifth: number } & CellFigures)[];
  /** By layer, given exact inputs, on the first document. */
  readonly keyNmse: readonly number[];
  /** Squared error over squared norm of values, likewise. */
  readonly valueNmse: readonly number[];
  /** Error over norm of the attention's output, likewise. */
  readonly outputError: readonly number[];
  /** How much larger than the base's: loss and divergence in nats a token, share of right answers. */
  readonly overBase: { readonly nll: Difference; readonly kl: Difference; readonly answers: Difference };
}

/** What a cell of tasks can show. */
export interface CellNote {
  /** Answers in all. */
  readonly answers: number;
  /** Tokens of a document, on average. */
  readonly tokens: number;
  /** False where the window and the sinks alone are enough, or where the model fails with an exact cache. */
  readonly tells: boolean;
  /** Why it tells nothing; empty where it does. */
  readonly note: string;
}

/** What {@linkcode evaluate} measures. */
export interface Evaluation {
  /** Name of the model. */
  readonly model: string;
  /** The adapter's name. */
  readonly device: string;
  /** When queries saw the compressed cache. */
  readonly regime: Regime;
  /** Newest tokens that a query saw exactly. */
  readonly window: number;
  /** First tokens that a query saw exactly. */
  readonly sinks: number;
  /** Tokens predicted by each method, over all texts. */
  readonly tokensScored: number;
  /** Chunks of texts. */
  readonly documents: number;
  /** Most tokens of a chunk. */
  readonly chunkTokens: number;
  /** The method that others are compared with. */
  readonly base: string;
  /** How long it took. */
  readonly seconds: number;
  /** The exact cache first, the anchor last. */
  readonly methods: readonly MethodFigures[];
  /** What each cell of tasks can show. */
  readonly cells: Readonly<Record<string, CellNote>>;
}

interface Document {
  readonly ids: readonly number[];
  /** First token whose query sees the compressed cache. */
  readonly from: number;
}

interface TaskDocument extends Document {
  readonly task: Task;
  readonly answers: readonly (AnswerSpan & { readonly fifth?: number })[];
}

/** What a method has shown so far. */
interface Tally {
  readonly method: Method;
  readonly scores: TokenScores[];
  /** Whether each answer of each task was right. */
  readonly right: Uint8Array[];
  readonly layers: LayerError[];
}

/**
 * Runs every method over the same documents and compares it with the exact cache. Always among them: `fp16`, the exact
 * cache, and `0bit`, the window and sinks alone.
 *
 * An answer counts as right when each of its tokens is the likeliest, given the true text before it. Greedy generation
 * from the text before the answer then writes just that answer, and otherwise it does not: for one answer, the
 * teacher-forced and the free-running score are the same number.
 *
 * Protocol: queries at t see exact keys and values at s > t - window and s < sinks, compressed ones elsewhere, in all
 * layers at once. Throws `RangeError` for unknown methods and for documents longer than the model's context.
 */
export async function evaluate(llama: Llama, options: EvaluateOptions = {}): Promise<Evaluation> {
  const started = performance.now(), engine = inside(llama), encode = (text: string) => engine.tokenizer.encode(text);
  const { regime = "chunked", window = 64, sinks = 4, chunkTokens = 4096, base = EXACT.name, signal } = options;
  const { texts = [], tasks = [], chunks = texts.length, calibration = [], baselines = [] } = options;
  if (!(Number.isInteger(window) && window >= 1 && Number.isInteger(sinks) && sinks >= 0)) {
    throw new RangeError(`Cannot evaluate with a window of ${window} and ${sinks} sinks: they must be >= 1 and >= 0`);
  }
  expectBaselines(baselines);
  const documents = cut(texts, encode, chunkTokens, chunks, regime), prepared = prepare(tasks, encode);
  const calibrating = baselines.some((name) => name.includes("kvquant"))
    ? cut(calibration, encode, Math.min(2048, chunkTokens), 16, regime).map(({ ids }) => ids)
    : [];
  const longest = Math.max(
    1,
    ...[...documents, ...prepared].map(({ ids }) => ids.length),
    ...calibrating.map((c) => c.length),
  );
  if (longest > engine.config.context) {
    throw new RangeError(
      `Cannot evaluate documents of ${longest} tokens as the model's context is ${engine.config.context}`,
    );
  }
  using forward = await Forward.create(engine, longest, { window, sinks });
  using scorer = await Scorer.create(forward);
  using exact = forward.allocRows(), kept = forward.allocRows(), mixed = forward.allocRows();
  using owned = new DisposableStack();
  const methods = [EXACT, ...await baselineMethods(forward, baselines, calibrating)];
  for (const book of options.codebooks ?? []) {
    methods.push(await codebookMethod(forward, llama.fingerprint, book, owned));
  }
  for (const quantizer of options.quantizers ?? []) methods.push(quantizerMethod(forward, quantizer));
  methods.push(ANCHOR);
  expectDistinct(methods.map(({ name }) => name));
  const tallies = methods.map((method): Tally => ({ method, scores: [], right: [], layers: [] }));
  if (!methods.some(({ name }) => name === base)) {
    throw new RangeError(
      `Cannot compare with base '${base}': the methods are ${methods.map((m) => m.name).join(", ")}`,
    );
  }
  const tested = methods.filter((m) => !m.control).length - 1, { layers } = engine.config;
  const total = layers * [
    ...documents.map(({ ids, from }) => ids.length + (methods.length - 1) * (ids.length - from)),
    ...prepared.map(({ ids, from }) => ids.length + tested * (ids.length - from)),
  ].reduce((a, b) => a + b, 0);
  let done = 0;
  const step = (phase: string, tokens: number) => (): void =>
    options.onProgress?.({ phase, done: Math.min(total, done += tokens), total });

  for (const [d, { ids, from }] of documents.entries()) {
    const targets = ids.slice(from + 1), visit = d === 0 ? measuring(forward, tallies) : undefined;
    forward.begin(ids);
    await forward.run(exact, { far: "exact", signal, visit, onLayer: step("texts", ids.length) });
    forward.copyTail(exact, from, kept);
    scorer.begin(kept);
    const truth = await scorer.judge(kept, targets, { margins: true });
    for (const { method, scores } of tallies) {
      let judged = truth;
      if (method.far !== "exact") {
        await forward.run(mixed, { far: method.far, from, signal, onLayer: step("texts", ids.length - from) });
        judged = await scorer.judge(mixed, targets, { compare: true });
      }
      const agrees = Uint8Array.from(judged.top, (id, t) => id === truth.top[t] ? 1 : 0);
      scores.push({ nll: judged.nll, kl: judged.kl, agrees, margin: truth.margin });
    }
  }
  for (const { ids, from, answers } of prepared) {
    forward.begin(ids);
    await forward.run(exact, { far: "exact", signal, onLayer: step("tasks", ids.length) });
    forward.copyTail(exact, from, kept);
    for (const { method, right } of tallies) {
      if (method.control) continue;
      let rows = kept;
      if (method.far !== "exact") {
        await forward.run(mixed, { far: method.far, from, signal, onLayer: step("tasks", ids.length - from) });
        rows = mixed;
      }
      const { top } = await scorer.judge(rows, ids.slice(from + 1));
      right.push(Uint8Array.from(answers, (answer) => {
        for (let i = answer.from; i < answer.to; i++) if (top[i - from - 1] !== ids[i]) return 0;
        return 1;
      }));
    }
  }

  const lengths = (documents.length ? documents : prepared).map(({ ids }) => ids.length);
  const elements = 2 * layers * engine.config.kvHeads * engine.config.headDim; // of a token
  const summaries = new Map(tallies.map((tally) => [tally.method.name, summarize(tally.scores)]));
  const find = (name: string): Tally => tallies.find(({ method }) => method.name === name)!;
  return {
    ...{ model: llama.name, device: llama.device, regime, window, sinks, chunkTokens, base },
    tokensScored: summaries.get(EXACT.name)!.tokens,
    documents: documents.length,
    seconds: (performance.now() - started) / 1e3,
    methods: tallies.map((tally) =>
      figures(tally, find(base), find(EXACT.name), prepared, {
        language: summaries.get(tally.method.name)!,
        exact: summaries.get(EXACT.name)!,
        anchor: summaries.get(ANCHOR.name)!,
        bits: bitsOf(tally.method, lengths, window + sinks, elements),
      })
    ),
    cells: cellNotes(prepared, find(EXACT.name), find(ANCHOR.name)),
  };
}

function expectDistinct(names: readonly string[]): void {
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw new RangeError(`Cannot compare methods of one name: '${twice}' is there twice`);
}

/** Chunks of texts: the first of each, then the second of each, and so on, up to `count`. */
function cut(
  texts: readonly string[],
  encode: (text: string) => number[],
  tokens: number,
  count: number,
  regime: Regime,
): Document[] {
  const all = texts.map(encode), out: Document[] = [];
  for (let at = 0; out.length < count && all.some((ids) => ids.length > at); at += tokens) {
    for (const text of all) {
      const ids = text.slice(at, at + tokens);
      if (ids.length < 2 || (at > 0 && ids.length < tokens) || out.length === count) continue;
      out.push({ ids, from: regime === "deployment" ? ids.length >> 1 : 0 });
    }
  }
  return out;
}

function prepare(tasks: readonly Task[], encode: (text: string) => number[]): TaskDocument[] {
  return tasks.map((task) => {
    const ids = encode(task.text);
    const answers = answerSpans(task, encode).map((span, i) => {
      const depth = depthOf(task, task.spans[i]!);
      return { ...span, fifth: depth === undefined ? undefined : Math.min(4, Math.floor(5 * depth)) };
    });
    return { task, ids, answers, from: Math.max(0, Math.min(...answers.map(({ from }) => from)) - 1) };
  });
}

/** Notes what every codec does to each layer of an exact run. */
function measuring(forward: Forward, tallies: readonly Tally[]): (layer: number) => Promise<void> {
  return async (layer) => {
    for (const { method, layers } of tallies) {
      const none = { keyNmse: 0, valueNmse: 0, outputError: 0 };
      layers.push(method.far === "exact" ? none : await forward.measure(layer, method.far));
    }
  };
}

/** The three bit figures of a method over documents: codes and scales, with exact tokens, with shared bytes. */
function bitsOf(
  { bitsCode, sharedBytes }: Method,
  lengths: readonly number[],
  near: number,
  elements: number,
): { bitsEffective: number; bitsAll: number } {
  const mean = (of: (tokens: number) => number): number => lengths.reduce((sum, n) => sum + of(n), 0) / lengths.length;
  return {
    bitsEffective: mean((n) => bitsEffective(bitsCode, near, n)),
    bitsAll: mean((n) => bitsAll(bitsEffective(bitsCode, near, n), sharedBytes, n * elements)),
  };
}

interface Context {
  readonly language: LanguageFigures;
  readonly exact: LanguageFigures;
  readonly anchor: LanguageFigures;
  readonly bits: { readonly bitsEffective: number; readonly bitsAll: number };
}

function figures(
  { method, scores, right, layers }: Tally,
  base: Tally,
  truth: Tally,
  tasks: readonly TaskDocument[],
  { language, exact, anchor, bits }: Context,
): MethodFigures {
  const { tokens: _, ...rest } = language, { name, about, bitsCode, sharedBytes } = method;
  const loss = (of: LanguageFigures): number => Math.log(of.perplexitySecondHalf);
  const none = { right: 0, all: 0, lost: 0, gained: 0 }, answers: Record<string, CellFigures> = {};
  const depths: Record<string, MethodFigures["depths"][number]> = {};
  right.forEach((ofTask, i) => {
    const { task, answers: spans } = tasks[i]!, cell = cellOf(task), { chars } = task;
    ofTask.forEach((isRight, a) => {
      const { fifth } = spans[a]!, exactly = truth.right[i]![a]!;
      const count = <T extends CellFigures>(sum: T): T => ({
        ...{ ...sum, right: sum.right + isRight, all: sum.all + 1 },
        ...{ lost: sum.lost + (exactly & ~isRight), gained: sum.gained + (isRight & ~exactly) },
      });
      answers[cell] = count(answers[cell] ?? none);
      if (fifth === undefined) return;
      const key = `${cell} ${fifth}`;
      depths[key] = count(depths[key] ?? { cell, chars, fifth, ...none });
    });
  });
  const over = (of: (tally: Tally) => readonly ArrayLike<number>[], own: readonly ArrayLike<number>[]): Difference =>
    pairedBootstrap(own, of(base).slice(0, own.length));
  return {
    ...{ name, about, bitsCode, ...bits, sharedBytes, ...rest },
    contextKept: (loss(anchor) - loss(language)) / (loss(anchor) - loss(exact)),
    tasks: Object.fromEntries(Object.entries(answers).map(([cell, { right, all }]) => [cell, right / all])),
    answers,
    depths: Object.values(depths).toSorted((a, b) => a.chars - b.chars || a.fifth - b.fifth),
    keyNmse: layers.map((l) => l.keyNmse),
    valueNmse: layers.map((l) => l.valueNmse),
    outputError: layers.map((l) => l.outputError),
    overBase: {
      nll: over((t) => t.scores.map((s) => s.nll), scores.map((s) => s.nll)),
      kl: over((t) => t.scores.map((s) => s.kl), scores.map((s) => s.kl)),
      answers: over((t) => t.right, right),
    },
  };
}

function cellNotes(tasks: readonly TaskDocument[], exact: Tally, anchor: Tally): Record<string, CellNote> {
  const cells: Record<string, { exact: number; anchor: number; all: number; tokens: number; texts: number }> = {};
  tasks.forEach(({ task, ids }, i) => {
    const cell = cells[cellOf(task)] ??= { exact: 0, anchor: 0, all: 0, tokens: 0, texts: 0 };
    cell.tokens += ids.length;
    cell.texts++;
    cell.exact += exact.right[i]!.reduce((a, b) => a + b, 0);
    cell.anchor += anchor.right[i]!.reduce((a, b) => a + b, 0);
    cell.all += exact.right[i]!.length;
  });
  return Object.fromEntries(
    Object.entries(cells).map(([name, { exact, anchor, all, tokens, texts }]) => {
      const note = exact < 0.8 * all
        ? `the model itself answers ${exact} of ${all}`
        : anchor >= 0.5 * exact
        ? `the window and the sinks alone answer ${anchor} of ${all}`
        : "";
      return [name, { answers: all, tokens: Math.round(tokens / texts), tells: note === "", note }];
    }),
  );
}
