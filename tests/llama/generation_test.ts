import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { type GeneratedToken, Generation, type StopOptions } from "../../src/llama/generation.ts";
import type { Tokenizer } from "../../src/text/tokenizer.ts";

/** Text of every id; the character of 5 and 6 together is "é". */
const TEXTS = ["", "Hello", " wor", "ld", "\n", [0xc3], [0xa9, 0x21], [0x61, 0xc3]] as const;
const bytes = TEXTS.map((text) => typeof text === "string" ? new TextEncoder().encode(text) : Uint8Array.from(text));
const tokenizer = {
  stripsSpace: false,
  bytes: (id: number) => bytes[id]!,
  isSpecial: () => false,
} as object as Tokenizer;

interface Script {
  ids: number[];
  fails?: Error;
  before?: (made: number) => void;
}

/** A generation of the tokens of a script, and whether its source was closed. */
function generation({ ids, fails, before }: Script, options: Partial<StopOptions> = {}) {
  const state = { closed: false, made: 0 };
  const made = new Generation(
    () => ({
      promptTokens: [1],
      async *tokens() {
        try {
          for (const id of ids) {
            before?.(state.made);
            state.made++;
            await Promise.resolve();
            yield { id, logprob: -id };
          }
          if (fails) throw fails;
        } finally {
          state.closed = true;
        }
      },
      usage: (generatedTokens) => ({ generatedTokens }) as never,
    }),
    tokenizer,
    { maxTokens: 100, eos: new Set(), stopIds: new Set(), stopStrings: [], logprobs: false, ...options },
  );
  return { made, state };
}

/** What the loop saw, and what it came to. */
async function run(script: Script, options: Partial<StopOptions> = {}) {
  const { made, state } = generation(script, options), seen: GeneratedToken[] = [];
  for await (const token of made) seen.push(token);
  const done = await made.done;
  assertEquals(state.closed, options.maxTokens !== 0, "the source is closed when it was begun");
  assertEquals(seen.map(({ text }) => text).join(""), done.text, "the tokens' texts join to the text");
  assertEquals(seen.map(({ id }) => id), done.tokens, "every token is seen once");
  return { ...done, seen };
}

Deno.test("a generation ends by the first reason there is", async () => {
  const ids = [1, 2, 3, 4, 1];
  for (
    const [options, text, count, reason] of [
      [{}, "Hello world\nHello", 5, "length"],
      [{ maxTokens: 2 }, "Hello wor", 2, "length"],
      [{ maxTokens: 0 }, "", 0, "length"],
      [{ eos: new Set([4]) }, "Hello world", 3, "eos"],
      [{ stopIds: new Set([4]) }, "Hello world", 3, "stop"],
      [{ stopIds: new Set([4]), eos: new Set([3]) }, "Hello wor", 2, "eos"],
      [{ stopStrings: ["world"] }, "Hello ", 3, "stop"],
      [{ stopStrings: ["o w", "ld"] }, "Hell", 2, "stop"],
      [{ stopStrings: ["Hello"] }, "", 1, "stop"],
      [{ stopStrings: ["world", "nowhere"], maxTokens: 2 }, "Hello wor", 2, "length"],
      [{ stopStrings: ["world!"] }, "Hello world\nHello", 5, "length"],
    ] as [Partial<StopOptions>, string, number, string][]
  ) {
    const done = await run({ ids }, options);
    assertEquals([done.text, done.tokens.length, done.stopReason], [text, count, reason]);
    assertEquals(done.promptTokens, [1]);
    assertEquals(done.usage.generatedTokens, count);
  }
});

Deno.test("a token waits for the one that settles its text", async () => {
  const { seen } = await run({ ids: [5, 6, 1] });
  assertEquals(seen, [{ id: 5, text: "" }, { id: 6, text: "é!" }, { id: 1, text: "Hello" }]);
  const { seen: stopped } = await run({ ids: [1, 2, 4] }, { stopStrings: ["world"] });
  assertEquals(stopped.map(({ text }) => text), ["Hello", "", " wor\n"]);
});

Deno.test("what is unfinished at the end is the last token's text", async () => {
  assertEquals((await run({ ids: [1, 5] })).text, "Hello\ufffd");
  assertEquals((await run({ ids: [1, 7] })).text, "Helloa\ufffd");
  assertEquals((await run({ ids: [1, 2] }, { stopStrings: ["or d"] })).text, "Hello wor");
});

Deno.test("log-probabilities come where asked for", async () => {
  assertEquals((await run({ ids: [1, 2] }, { logprobs: true })).seen.map(({ logprob }) => logprob), [-1, -2]);
  assertEquals((await run({ ids: [1] })).seen, [{ id: 1, text: "Hello" }]);
});

Deno.test("breaking out of the loop keeps what was made", async () => {
  const { made, state } = generation({ ids: [1, 2, 3, 4] });
  for await (const { id } of made) if (id === 2) break;
  const { text, tokens, stopReason } = await made.done;
  assertEquals({ text, tokens, stopReason }, { text: "Hello wor", tokens: [1, 2], stopReason: "abort" });
  assert(state.closed);
});

Deno.test("an error in the loop ends the generation", async () => {
  const { made, state } = generation({ ids: [1, 2, 3, 4] });
  await assertRejects(
    async () => {
      for await (const _ of made) throw new Error("the reader's own");
    },
    Error,
    "the reader's own",
  );
  assertEquals((await made.done).stopReason, "abort");
  assert(state.closed);
});

Deno.test("aborting keeps what was made, before, during and after", async () => {
  const before = generation({ ids: [1, 2] }, { signal: AbortSignal.abort() });
  assertEquals([(await before.made.done).stopReason, before.state.made], ["abort", 0]);
  const controller = new AbortController();
  const during = generation(
    { ids: [1, 2, 3], before: (made) => made === 2 && controller.abort() },
    { signal: controller.signal, stopStrings: ["world"] },
  );
  const { text, tokens, stopReason } = await during.made.done;
  assertEquals({ text, tokens, stopReason }, { text: "Hello wor", tokens: [1, 2], stopReason: "abort" });
  assert(during.state.closed);
  const late = new AbortController(), after = generation({ ids: [1, 2] }, { signal: late.signal });
  assertEquals((await after.made.done).stopReason, "length");
  late.abort();
  assertEquals((await after.made.done).stopReason, "length");
});

Deno.test("an error of the source is told by the loop and by `done`, and not when it is the abort's", async () => {
  const failing = () => generation({ ids: [1], fails: new Error("the GPU's") }).made;
  const told = failing();
  await assertRejects(() => told.done, Error, "the GPU's");
  const looped = failing();
  await assertRejects(
    async () => {
      for await (const _ of looped);
    },
    Error,
    "the GPU's",
  );
  await assertRejects(() => looped.done, Error, "the GPU's");
  const controller = new AbortController();
  const aborted = generation(
    { ids: [1, 2], fails: new DOMException("", "AbortError"), before: (made) => made === 1 && controller.abort() },
    { signal: controller.signal },
  );
  assertEquals((await aborted.made.done).tokens, [1]);
});

Deno.test("it runs once, when it is read, and tells when it is over", async () => {
  const { made, state } = generation({ ids: [1, 2] });
  const order: string[] = [];
  made.whenOver(() => order.push("over"));
  await Promise.resolve();
  assertEquals(state.made, 0);
  const [first, second] = await Promise.all([made.done, made.done]);
  order.push("done");
  assertEquals(first, second);
  assertEquals([state.made, order], [2, ["over", "done"]]);
  await assertRejects(
    async () => {
      for await (const _ of made);
    },
    TypeError,
    "Cannot iterate a generation twice",
  );
});

Deno.test("an empty stop string is refused at once", () => {
  assertThrows(() => generation({ ids: [] }, { stopStrings: [""] }), TypeError, "Cannot stop at a string");
});
