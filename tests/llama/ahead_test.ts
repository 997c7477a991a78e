/** Steps that the GPU took before anybody asked for their tokens. */
import { assertEquals } from "@std/assert";
import { CodeCache } from "../../src/attention/code_cache.ts";
import { inside } from "../../src/llama/llama.ts";
import { Session } from "../../src/llama/session.ts";
import { lettersOf } from "../_llama.ts";
import { CODES, CONTEXT, go, IDS, within } from "./_small.ts";

Deno.test("tokens that nobody asked for leave no trace in an exact cache", () =>
  within(async (_, open) => {
    using llama = await open();
    const options = { maxTokens: 80, logitBias: lettersOf(llama.tokenizer) };
    for (const most of [1, 2, 3, 5, 8, 13, 21]) {
      using left = llama.session();
      using ended = llama.session();
      const generation = left.generate(IDS, options);
      let made = 0;
      for await (const _ of generation) if (++made === most) break;
      const { tokens } = await generation.done;
      await ended.generate(IDS, { ...options, maxTokens: most }).done;
      assertEquals(left.tokens, [...IDS, ...tokens]);
      assertEquals(await go(left, [9], 3), await go(ended, [9], 3), `after ${most} tokens`);
    }
  }));

Deno.test("no block is encoded while it holds tokens that nobody asked for", () =>
  within(async (_, open) => {
    using llama = await open(CODES);
    const { compressed, config, ...engine } = inside(llama);
    const options = { maxTokens: 100, logitBias: lettersOf(llama.tokenizer) };
    for (let extra = 0; extra < 8; extra++) {
      const cache = new CodeCache(compressed!.attention, config.layers, CONTEXT),
        ids = [...IDS, ...IDS.slice(0, extra)];
      using left = new Session({ ...engine, config }, cache);
      using ended = llama.session();
      const encoded = (): number => cache.layout().runs.reduce((sum, tokens) => sum + tokens, 0);
      const generation = left.generate(ids, options);
      let before: number | undefined;
      for await (const _ of generation) if (encoded() !== (before ??= encoded())) break;
      const { tokens } = await generation.done;
      await ended.generate(ids, { ...options, maxTokens: tokens.length }).done;
      assertEquals(left.tokens, [...ids, ...tokens]);
      assertEquals(await go(left, [9], 3), await go(ended, [9], 3), `after ${tokens.length} tokens`);
    }
  }, 1)); // one layer: as many steps as can be go to the GPU at a time
