/**
 * Retrieval tasks: documents with answers in them, scored by whether each answer is predicted exactly.
 *
 * @module
 */
import { FileFormatError } from "../core/errors.ts";
import { Rng } from "../core/rng.ts";

/** One document; `spans` are character ranges `[start, end)` of the answers in `text`. */
export interface Task {
  /** The kind. */
  readonly task: string;
  /** Nominal length in characters: with the kind, the cell that it counts for. */
  readonly chars: number;
  /** The whole text, answers included. */
  readonly text: string;
  /** Where the answers are. */
  readonly spans: readonly (readonly [number, number])[];
}

/** The cell that a task counts for: `passkey@4000`. */
export function cellOf({ task, chars }: Task): string {
  return `${task}@${chars}`;
}

/** Tasks of a JSON-lines text. Throws `FileFormatError` by line. */
export function parseTasks(text: string, name: string): Task[] {
  return text.split("\n").flatMap((line, i) => {
    if (line.trim() === "") return [];
    const fail = (what: string): never => {
      throw new FileFormatError(`Cannot read tasks from ${name} as line ${i + 1} ${what}`);
    };
    let value: Task;
    try {
      value = JSON.parse(line);
    } catch {
      return fail("is not JSON");
    }
    const { task, chars, text, spans } = value ?? {};
    if (typeof task !== "string" || typeof chars !== "number" || typeof text !== "string" || !Array.isArray(spans)) {
      return fail("lacks task, chars, text or spans");
    }
    const sound = spans.every((s) =>
      Array.isArray(s) && Number.isInteger(s[0]) && Number.isInteger(s[1]) && s[0] >= 0 && s[0] < s[1] &&
      s[1] <= text.length
    );
    return sound ? [value] : fail("has a span outside its text");
  });
}

/** Where an answer's tokens lie: `ids[from..to)` must be predicted, each from the true tokens before it. */
export interface AnswerSpan {
  readonly from: number;
  readonly to: number;
}

/**
 * Token ranges of a task's answers in `ids`, its text with BOS: the tokens of `text[..start]`, trailing spaces cut, end
 * the prefix, and the answer runs to the end of `text[..end]`'s tokens.
 */
export function answerSpans(task: Task, encode: (text: string) => number[]): AnswerSpan[] {
  return task.spans.map(([start, end]) => {
    const prefix = task.text.slice(0, start).replace(/ +$/, "");
    return { from: encode(prefix).length, to: encode(task.text.slice(0, end)).length };
  });
}

/**
 * Where an answer stood first: 0 at the text's beginning, 1 at the answer itself. Undefined for one that did not stand
 * before, and for short and long ones, which stand there by chance or are no single fact.
 */
export function depthOf({ text }: Task, [start, end]: readonly [number, number]): number | undefined {
  const answer = text.slice(start, end).trim(), at = text.indexOf(answer);
  return answer.length < 4 || answer.length > 40 || at >= start ? undefined : at / start;
}

/** Kinds of tasks that {@linkcode generateTasks} makes. */
export const FAMILIES = [
  "passkey",
  "needles",
  "kv_lookup",
  "recall_names",
  "variables",
  "copy_words",
  "problems",
  "far_sums",
] as const;
/** One kind of task. */
export type Family = typeof FAMILIES[number];

const CONSONANTS = "bdfghjklmnprstvw", VOWELS = "aeiou";

/** A made-up word of two or three syllables. */
function word(rng: Rng): string {
  let out = "";
  for (let i = 2 + rng.below(2); i > 0; i--) out += CONSONANTS[rng.below(16)]! + VOWELS[rng.below(5)]!;
  return rng.below(3) ? out : out + "nrs"[rng.below(3)];
}

const capital = (text: string): string => text[0]!.toUpperCase() + text.slice(1);
const digits = (rng: Rng, count: number): string =>
  String(1 + rng.below(9)) + Array.from({ length: count - 1 }, () => rng.below(10)).join("");

/** Builds a text and notes where its answers are. */
class Builder {
  text = "";
  readonly spans: [number, number][] = [];

  add(text: string): this {
    this.text += text;
    return this;
  }

  answer(text: string): this {
    this.spans.push([this.text.length, this.text.length + text.length]);
    return this.add(text);
  }
}

/** Sentences of filler, endless: those given, from one of them on, or made up of fresh words. */
function fillerOf(rng: Rng, sentences: readonly string[]): () => string {
  let at = sentences.length ? rng.below(sentences.length) : 0;
  return () =>
    sentences.length
      ? sentences[at++ % sentences.length]!.trim()
      : `The ${word(rng)} of ${word(rng)} was ${word(rng)}.`;
}

/** Filler of about `chars` characters with `lines` let in at the given depths (0 to 1). */
function hide(next: () => string, chars: number, lines: readonly { depth: number; line: string }[]): string {
  const out: string[] = [], waiting = lines.toSorted((a, b) => a.depth - b.depth);
  let length = 0;
  while (length < chars || waiting.length) {
    while (waiting.length && length >= waiting[0]!.depth * chars) out.push(`\n\n${waiting.shift()!.line}\n\n`);
    if (length >= chars) continue;
    const sentence = next();
    out.push(out.length && !out.at(-1)!.endsWith("\n") ? ` ${sentence}` : sentence);
    length += sentence.length + 1;
  }
  return out.join("");
}

/** Options of {@linkcode generateTasks}. */
export interface TaskOptions {
  /** The kind to make. */
  readonly family: Family;
  /** About how long each document is, in characters. */
  readonly chars: number;
  /** How many. */
  readonly count: number;
  /** The same seed gives the same tasks. */
  readonly seed?: number;
  /** Prose to hide needles in; made-up sentences without it. */
  readonly filler?: string;
  /** Depths of the pass key, 0 to 1, in turn; spread evenly without them. */
  readonly depths?: readonly number[];
}

/** Fresh tasks of a family at any length: the same seed gives the same tasks. */
export function generateTasks({ family, chars, count, seed = 0, filler = "", depths }: TaskOptions): Task[] {
  const rng = new Rng(seed + 0x51ed * FAMILIES.indexOf(family));
  const sentences = filler.match(/(?<=^|[.!?]\s+)[^.!?\s][^.!?\n]{20,200}[.!?]/g) ?? [];
  const depthAt = (i: number): number => depths ? depths[i % depths.length]! : count > 1 ? i / (count - 1) : 0.5;
  return Array.from({ length: count }, (_, i) => {
    const builder = new Builder(), next = fillerOf(rng, sentences);
    MAKERS[family](builder, rng, next, chars, depthAt(i));
    return { task: family, chars, text: builder.text, spans: builder.spans };
  });
}

type Maker = (out: Builder, rng: Rng, next: () => string, chars: number, depth: number) => void;

/** A made-up name of two words, as `mibo-tarun`. */
const pair = (rng: Rng): string => `${word(rng)}-${word(rng)}`;

const MAKERS: Record<Family, Maker> = {
  passkey(out, rng, next, chars, depth) {
    const key = digits(rng, 5), line = `The pass key is ${key}. Remember it. ${key} is the pass key.`;
    out.add("There is important information hidden in the text below. Find it and remember it.\n\n");
    out.add(hide(next, chars - 200, [{ depth: 0.97 * depth, line }]));
    out.add("\n\nWhat is the pass key? The pass key is ").answer(key).add(".");
  },
  needles(out, rng, next, chars) {
    const facts = Array.from({ length: 4 }, () => ({ name: pair(rng), value: digits(rng, 5) }));
    const lines = facts.map(({ name, value }) => ({
      depth: rng.uniform(),
      line: `One of the special magic numbers for ${name} is: ${value}.`,
    }));
    out.add("Some special magic numbers are hidden within the following text. Memorize them.\n\n");
    out.add(hide(next, chars - 500, lines));
    for (const { name, value } of facts) {
      out.add(`\n\nWhat is the special magic number for ${name}? The special magic number for ${name} is `).answer(
        value,
      ).add(".");
    }
  },
  kv_lookup(out, rng, _next, chars) {
    const count = Math.max(5, Math.floor((chars - 250) / 29));
    const pairs = Array.from({ length: count }, () => [`${pair(rng)}-${digits(rng, 2)}`, digits(rng, 6)] as const);
    out.add(`JSON data:\n{${pairs.map(([key, value]) => `"${key}": "${value}"`).join(", ")}}\n`);
    for (let i = 0; i < 5; i++) {
      const [key, value] = pairs[rng.below(count)]!;
      out.add(`\nThe value of "${key}" is "`).answer(value).add('".');
    }
  },
  recall_names(out, rng, next, chars) {
    const people = Array.from({ length: 4 }, () => ({ name: capital(word(rng)), thing: `${word(rng)} ${word(rng)}` }));
    const lines = people.map(({ name, thing }) => ({
      depth: rng.uniform(),
      line: `${name} keeps a ${thing} in the house.`,
    }));
    out.add("Read the following and remember who keeps what.\n\n").add(hide(next, chars - 300, lines));
    for (const { name, thing } of people) {
      out.add(`\n\nWhat does ${name} keep in the house? ${name} keeps a`).answer(` ${thing}`).add(".");
    }
  },
  variables(out, rng, next, chars) {
    const names: string[] = [],
      values: string[] = [],
      chain = (): string => `${word(rng).toUpperCase()}${names.length}`;
    out.add("Track the variables.");
    while (out.text.length < chars - 60 || names.length < 4) {
      const name = chain(), fresh = names.length === 0 || rng.below(3) === 0, value = digits(rng, 4);
      out.add(`\n\nVAR ${name} = ${fresh ? value : names.at(-1)}.`);
      names.push(name);
      values.push(fresh ? value : values.at(-1)!);
      if (chars > 1500) out.add(`\n\n${next()}`);
    }
    const asked = rng.below(names.length);
    out.add(`\n\nThe number in ${names[asked]} is `).answer(values[asked]!).add(".");
  },
  copy_words(out, rng, _next, chars) {
    const words = Array.from({ length: Math.max(4, Math.floor(chars / 14)) }, () => word(rng)).join(" ");
    out.add(`Words: ${words}.\nCopy:`).answer(` ${words}`).add(".");
  },
  problems(out, rng, _next, chars) {
    while (out.text.length < chars) {
      const name = capital(word(rng)), boxes = 2 + rng.below(8), each = 2 + rng.below(8), more = 2 + rng.below(30);
      out.add(`Question: ${name} has ${boxes} boxes with ${each} pencils in each box, and ${more} more on the table. `);
      out.add(`How many pencils does ${name} have?\nAnswer: ${boxes} * ${each} = ${boxes * each}. `);
      out.add(`${boxes * each} + ${more} = ${boxes * each + more}. The answer is `);
      out.answer(String(boxes * each + more)).add(".\n\n");
    }
  },
  far_sums(out, rng, next, chars) {
    // The operands lie further back than any window, so the sum needs the compressed part of the cache.
    const name = capital(word(rng)), first = 2 + rng.below(40), second = 2 + rng.below(40);
    const line = (n: number, what: string): string => `${name} has ${n} pencils in the ${what} box.`;
    const lines = [{ depth: 0.1, line: line(first, "first") }, { depth: 0.3, line: line(second, "second") }];
    out.add(hide(next, Math.max(chars, 1800) - 200, lines));
    out.add(`\n\nQuestion: How many pencils does ${name} have together?\nAnswer: `);
    out.answer(`${first} + ${second} = ${first + second}`).add(".");
  },
};
