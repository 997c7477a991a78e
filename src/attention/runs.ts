/**
 * Runs of encoded tokens: where a compressed cache's codes begin and end. Codes come in whole blocks; a rewind into one
 * leaves it unfinished, and what comes next begins a block of its own.
 *
 * @module
 */
import { BLOCK, blocks } from "../core/pack.ts";

/** Blocks that rewinds into codes may leave unfinished, and their number. */
export const MAX_RUNS = 9;

/** Encoded tokens that follow each other, in whole blocks but for the last. */
export interface Run {
  readonly block: number;
  readonly tokens: number;
  /** Of the first token. */
  readonly position: number;
}

/** Of so many tokens beside the sinks, those that leave a ring of `ring`: whole blocks. */
export function flushed(tokens: number, ring: number): number {
  return Math.max(0, Math.ceil((tokens - ring) / BLOCK)) * BLOCK;
}

/** Tokens of all runs. */
export function encodedOf(runs: readonly Run[]): number {
  return runs.reduce((sum, { tokens }) => sum + tokens, 0);
}

/** Blocks up to the end of the last run. */
export function blocksOf(runs: readonly Run[]): number {
  const last = runs.at(-1);
  return last ? last.block + blocks(last.tokens) : 0;
}

/** Tokens of the last run's last block; none without runs. */
export function endOf(runs: readonly Run[]): number {
  const last = runs.at(-1);
  return last ? (last.tokens - 1) % BLOCK + 1 : 0;
}

/** Runs with more blocks at the end: the last run goes on where it ends with a whole block. */
export function extend(runs: readonly Run[], more: Run): Run[] {
  const last = runs.at(-1);
  if (!last || last.tokens % BLOCK !== 0) return [...runs, more];
  return [...runs.slice(0, -1), { ...last, tokens: last.tokens + more.tokens }];
}

/** Runs of so many tokens each, one after the other. */
export function place(tokens: readonly number[], position: number, block = 0): Run[] {
  const out: Run[] = [];
  for (const count of tokens) {
    out.push({ block, tokens: count, position });
    block += blocks(count);
    position += count;
  }
  return out;
}

/** Whether runs are few enough, one more after an unfinished block included. */
export function hasRoom(runs: readonly { tokens: number }[]): boolean {
  return runs.length < MAX_RUNS || (runs.length === MAX_RUNS && runs.at(-1)!.tokens % BLOCK === 0);
}
