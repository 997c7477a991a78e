/**
 * Judges what a pass left of a text: how well each next token was predicted, and how far from the exact cache's.
 *
 * @module
 */
import type { Tensor } from "../gpu/tensor.ts";
import { KlRows } from "../kernels/kl_rows.ts";
import { rowScores, ScoreRows } from "../kernels/score_rows.ts";
import { spans } from "../llama/decoder.ts";
import type { Forward } from "./forward.ts";

/** Logits of one width of pass take at most so many numbers. */
const LOGITS = 2 ** 26;

/** Predictions of tokens, one number or id each. */
export interface Predictions {
  /** Loss in nats. */
  readonly nll: Float32Array;
  /** Likeliest token. */
  readonly top: Uint32Array;
  /** Probability of the likeliest token less that of the second, where asked for. */
  readonly margin: Float32Array;
  /** KL divergence in nats from the exact prediction, where there is one to compare with, else 0. */
  readonly kl: Float32Array;
}

/** Reads logits off residual streams, a span of tokens at a time. Owns the logits; borrows a {@linkcode Forward}. */
export class Scorer implements Disposable {
  readonly #owned = new DisposableStack();
  readonly #logits: Tensor;
  readonly #exact: Tensor;
  readonly #targets: Tensor;
  readonly #scores: Tensor;
  readonly #kl: Tensor;
  #truth: Tensor | undefined;
  /** Whether the exact logits in memory are those of the whole text: if it is short, they are worked out once. */
  #held = false;
  /** Rows judged at once. */
  readonly #rows: number;

  private constructor(readonly forward: Forward, readonly ops: { score: ScoreRows; kl: KlRows }, most: number) {
    const { gpu, config: { vocab }, engine, capacity } = forward;
    const fits = Math.floor(Math.min(LOGITS, gpu.maxBytes / 4) / vocab);
    this.#rows = Math.max(1, Math.min(most, engine.decoder.chunk, capacity, fits >= 64 ? fits & ~63 : fits));
    const alloc = (label: string, dtype: "f32" | "u32", ...shape: number[]): Tensor =>
      this.#owned.use(gpu.alloc(label, dtype, shape));
    this.#logits = alloc("logits", "f32", this.#rows, vocab);
    this.#exact = alloc("exact logits", "f32", this.#rows, vocab);
    this.#targets = alloc("targets", "u32", this.#rows);
    this.#scores = alloc("scores", "u32", this.#rows, 4);
    this.#kl = alloc("divergences", "f32", this.#rows);
  }

  /** Judges at most `most` rows at once. */
  static async create(forward: Forward, most = Infinity): Promise<Scorer> {
    const { gpu, config: { vocab } } = forward;
    return new Scorer(
      forward,
      { score: await ScoreRows.create(gpu, vocab), kl: await KlRows.create(gpu, vocab) },
      most,
    );
  }

  /** Borrows the residual stream of an exact run, which `compare`d ones are held against from now on. */
  begin(exact: Tensor): void {
    this.#truth = exact;
    this.#held = false;
  }

  /**
   * Predictions of `targets`, the tokens that follow each of the first rows of `x f32 [..][H]`; if asked to, compared
   * with the exact ones.
   */
  async judge(
    x: Tensor,
    targets: readonly number[],
    { compare = false, margins = false }: { compare?: boolean; margins?: boolean } = {},
  ): Promise<Predictions> {
    const count = targets.length,
      { gpu, config: { vocab } } = this.forward,
      [nll, margin, kl] = [0, 0, 0].map(() => new Float32Array(count)) as [Float32Array, Float32Array, Float32Array];
    const top = new Uint32Array(count);
    for (const { offset, tokens } of spans(count, this.#rows)) {
      const logits = this.#logits.view(0, [tokens, vocab]), scores = this.#scores.view(0, [tokens, 4]);
      const out = this.#kl.view(0, [tokens]), commands = gpu.commands("judge");
      gpu.write(this.#targets, Uint32Array.from(targets.slice(offset, offset + tokens)));
      this.forward.logits(commands, x, { offset, tokens }, logits);
      this.ops.score.encode(commands, { logits, targets: this.#targets.view(0, [tokens]), scores });
      if (compare) {
        const p = this.#exact.view(0, [tokens, vocab]);
        if (!this.#held) this.forward.logits(commands, this.#truth!, { offset, tokens }, p);
        this.#held = tokens === count;
        this.ops.kl.encode(commands, { p, q: logits, out });
      }
      commands.submit();
      const judged = rowScores(await gpu.read(scores)), all = margins ? await gpu.readF32(logits) : undefined;
      if (compare) kl.set(await gpu.readF32(out), offset);
      judged.forEach((row, t) => {
        nll[offset + t] = row.nll;
        top[offset + t] = row.top;
        if (!all) return;
        const second = secondLargest(all.subarray(t * vocab, (t + 1) * vocab));
        margin[offset + t] = Math.exp(row.topLogit - row.logSumExp) - Math.exp(second - row.logSumExp);
      });
    }
    return { nll, top, margin, kl };
  }

  /** Frees the logits. */
  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}

function secondLargest(numbers: Float32Array): number {
  let first = -Infinity, second = -Infinity;
  for (let i = 0; i < numbers.length; i++) {
    const x = numbers[i]!;
    if (x > first) [second, first] = [first, x];
    else if (x > second) second = x;
  }
  return second;
}
