/** Prompts whose activations do not fit at once. */
import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { inside, type KvOptions, type Llama } from "../../src/llama/llama.ts";
import type { Session } from "../../src/llama/session.ts";
import { CODES, go, IDS, SMALL, within } from "./_small.ts";

/** Has prompts go in segments of so many tokens. */
function cut(llama: Llama, tokens: number): void {
  inside(llama).decoder.promptBytes = 4 * SMALL.hidden * tokens;
}

for (const [name, kv] of [["an exact cache", {}], ["a cache of codes", CODES]] as [string, KvOptions][]) {
  Deno.test(`a prompt in segments is read as its parts one after the other, with ${name}`, () =>
    within(async (_, open) => {
      using llama = await open(kv);
      const ids = [...IDS, ...IDS].slice(0, 300),
        prompt = async (session: Session, ids: readonly number[]) => {
          const progress: number[] = [];
          const onPrefill = (done: number, total: number): void => void progress.push(done / total);
          const generation = session.generate(ids, { maxTokens: 1, onPrefill });
          await generation.done;
          session.rewind(ids.length); // but for what was generated
          assertEquals([progress.toSorted((a, b) => a - b), progress.at(-1)], [progress, 1]);
          return progress.length;
        };
      using parts = llama.session();
      for (const end of [128, 256]) await prompt(parts, ids.slice(0, end));
      const expected = await go(parts, ids.slice(256));
      using whole = llama.session();
      await prompt(whole, ids.slice(0, 256));
      const once = await go(whole, ids.slice(256));
      if (kv === CODES) assert(`${once}` !== `${expected}`, "the cuts make no difference: the test tests nothing");
      cut(llama, 128);
      using session = llama.session();
      assertEquals(await go(session, ids), expected);
      cut(llama, 1); // 64 is the least
      using small = llama.session();
      assertEquals(await prompt(small, ids), 5 * SMALL.layers);
    }));
}

Deno.test("a prompt that is aborted leaves a cache that holds what the session says", () =>
  within(async (_, open) => {
    using llama = await open(CODES);
    using session = llama.session();
    await go(session, IDS, 1);
    for (const [segment, steps, length] of [[512, 1, 100], [128, 1, 100], [128, 3, 228]] as const) {
      cut(llama, segment);
      using fork = session.fork();
      const stop = new AbortController();
      let left: number = steps;
      const onPrefill = (): void => void (--left === 0 && stop.abort());
      const { signal } = stop, ids = [...session.tokens, ...IDS];
      assertEquals((await fork.generate(ids, { onPrefill, signal }).done).stopReason, "abort");
      // The sinks, and what is encoded: of the first turn, or of the first segment too.
      assertEquals(fork.tokens, ids.slice(0, length));
      using twin = session.fork();
      if (length > session.tokens.length) await twin.generate(ids.slice(0, 151 + 128), { maxTokens: 1 }).done;
      twin.rewind(length);
      const [a, b] = [await go(fork, [9, 8]), await go(twin, [9, 8])];
      a.forEach(([id, logprob], i) => {
        assertEquals(id, b[i]![0]);
        assertAlmostEquals(logprob, b[i]![1], 1e-4);
      });
    }
  }));
