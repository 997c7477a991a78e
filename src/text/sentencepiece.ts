/**
 * SentencePiece's byte-pair encoding, as GGUF stores it: tokens with scores, and no list of merges.
 *
 * It is not run as merges by the library because the two differ. Merges are ranked one by one, but here a pair is worth
 * the score of the token that it makes: `a+aa` and `aa+a` tie, and the leftmost pair of the text wins. Ranks cannot say
 * that.
 *
 * @module
 */
import { fallbackByte } from "./tokenizer_json.ts";
import { malformed, type Vocabulary } from "./vocabulary.ts";

/** Kinds of tokens, `tokenizer.ggml.token_type`. */
export const NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5, BYTE = 6;

const utf8 = new TextEncoder();

/** What {@linkcode createSentencePiece} needs: the tokens with a kind and a score each. */
export interface SentencePieces {
  tokens: readonly string[];
  kinds: ArrayLike<number>;
  scores: ArrayLike<number>;
  /** Whether every text, and every text after a marked token, begins with a space that its author did not write. */
  addsSpace: boolean;
}

/**
 * The vocabulary of a SentencePiece model.
 *
 * Marked tokens (control, unknown, user-defined) are found in the text first, the longest at each place. What lies
 * between them gets a space in front, `▁` for each space, and is merged: of all neighbours that make a token, the pair
 * whose token has the highest score, the leftmost among equals, until none is left. Characters that are no token
 * become the byte tokens of their UTF-8, or one unknown token where the vocabulary has no bytes.
 *
 * @throws {FileFormatError} Where characters outside the vocabulary could not be written at all.
 */
export function createSentencePiece({ tokens, kinds, scores, addsSpace }: SentencePieces): Vocabulary {
  const pieces = new Map<string, number>();
  const marked = new Map<string, number>();
  const byteIds = new Map<number, number>();
  let unknown: number | null = null;
  tokens.forEach((token, id) => {
    const kind = kinds[id];
    if (kind === BYTE) {
      const byte = fallbackByte(token);
      if (byte === null) throw malformed("a byte token must be written like <0x0A>", token);
      byteIds.set(byte, id);
    } else if (kind === CONTROL || kind === USER_DEFINED || kind === UNKNOWN) {
      marked.set(token, id);
      if (kind === UNKNOWN) unknown ??= id;
    } else {
      pieces.set(token, id);
    }
  });
  if (byteIds.size < 256 && unknown === null) {
    throw malformed("there must be 256 byte tokens or an unknown token", byteIds.size);
  }

  function encodePlain(text: string, ids: number[]): void {
    for (const piece of mergePieces(text, pieces, scores)) {
      const id = pieces.get(piece);
      if (id !== undefined) ids.push(id);
      else if (byteIds.size === 256) { for (const byte of utf8.encode(piece)) ids.push(byteIds.get(byte)!); }
      else if (ids.at(-1) !== unknown) ids.push(unknown!); // a run of unknown characters is one token
    }
  }
  const splitter = marked.size === 0 ? null : new RegExp(
    `(${[...marked.keys()].sort((a, b) => b.length - a.length).map(RegExp.escape).join("|")})`,
    "u",
  );
  return {
    tokens,
    special: new Set(tokens.keys().filter((id) => kinds[id] === CONTROL || kinds[id] === UNKNOWN)),
    stripsSpace: addsSpace,
    encode(text) {
      const ids: number[] = [];
      const sections = splitter ? text.split(splitter) : [text];
      sections.forEach((section, i) => { // text and marked tokens alternate
        if (i % 2 === 1) ids.push(marked.get(section)!);
        else if (section !== "") encodePlain((addsSpace ? "▁" : "") + section.replaceAll(" ", "▁"), ids);
      });
      return ids;
    },
    bytes(id) {
      const token = tokens[id]!;
      if (kinds[id] === BYTE) return Uint8Array.of(fallbackByte(token)!);
      return utf8.encode(marked.has(token) ? token : token.replaceAll("▁", " "));
    },
  };
}

/** A pair of neighbours that would make a token; stale once either of them has changed. */
interface Pair {
  score: number;
  left: number;
  right: number;
  end: number;
}

function mergePieces(text: string, pieces: Map<string, number>, scores: ArrayLike<number>): string[] {
  // A symbol is named by the offset of its first character; `next` of a symbol that was merged away is -1.
  const next = new Int32Array(text.length + 1).fill(-1);
  const prev = new Int32Array(text.length + 1).fill(-1);
  const pairs: Pair[] = [];
  function offer(left: number): void {
    const right = next[left]!;
    if (right >= text.length) return;
    const end = next[right]!;
    const id = pieces.get(text.slice(left, end));
    if (id !== undefined) pushPair(pairs, { score: scores[id]!, left, right, end });
  }
  for (let at = 0, before = -1; at < text.length; before = at, at = next[at]!) {
    next[at] = at + (text.codePointAt(at)! > 0xffff ? 2 : 1);
    prev[at] = before;
    if (before >= 0) offer(before);
  }
  for (let pair = popPair(pairs); pair; pair = popPair(pairs)) {
    const { left, right, end } = pair;
    if (next[left] !== right || next[right] !== end) continue;
    next[left] = end;
    next[right] = -1;
    prev[end] = left;
    offer(left);
    if (prev[left]! >= 0) offer(prev[left]!);
  }
  const result: string[] = [];
  for (let at = 0; at < text.length; at = next[at]!) result.push(text.slice(at, next[at]!));
  return result;
}

function isBefore(a: Pair, b: Pair): boolean {
  return a.score > b.score || (a.score === b.score && a.left < b.left);
}

/** Binary heap: the first pair to merge is at 0. */
function pushPair(heap: Pair[], pair: Pair): void {
  let i = heap.push(pair) - 1;
  for (let up = (i - 1) >> 1; i > 0 && isBefore(pair, heap[up]!); i = up, up = (i - 1) >> 1) heap[i] = heap[up]!;
  heap[i] = pair;
}

function popPair(heap: Pair[]): Pair | undefined {
  const first = heap[0];
  const last = heap.pop();
  if (heap.length === 0 || last === undefined) return first;
  let i = 0;
  for (let child = 1; child < heap.length; child = 2 * i + 1) {
    if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child++;
    if (!isBefore(heap[child]!, last)) break;
    heap[i] = heap[child]!;
    i = child;
  }
  heap[i] = last;
  return first;
}
