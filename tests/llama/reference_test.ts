/**
 * The bundled model against Hugging Face transformers in f32: `fixtures/generation.json` has, for five prompts, the
 * ids, the likeliest token after every one, the mean loss, the ten largest logits at the end, and 96 greedy tokens
 * with the margin by which each won.
 */
import { assert, assertEquals } from "@std/assert";
import { Gpu } from "../../src/gpu/gpu.ts";
import { Session } from "../../src/llama/session.ts";
import { openEngine } from "../_llama.ts";

/** A token that won by less may lose in another arithmetic, and what follows is another text. */
const NEAR_TIE = 0.02;

interface Reference {
  prompt: string;
  ids: number[];
  argmax: number[];
  nll: number;
  last_logits_top10: { id: number[]; logit: number[] };
  greedy: number[];
  greedy_margin: number[];
}

const MODEL = new URL("../../models/fable-28m/fable-28m.Q8_0.gguf", import.meta.url);
const { prompts } = JSON.parse(
  Deno.readTextFileSync(new URL("../fixtures/generation.json", import.meta.url)),
) as { prompts: Reference[] };

function argmax(logits: Float32Array): number {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id]! > logits[best]!) best = id;
  return best;
}

function loss(logits: Float32Array, target: number): number {
  const most = logits[argmax(logits)]!;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - most);
  return Math.log(sum) + most - logits[target]!;
}

Deno.test("the bundled model gives the reference's tokens, losses and logits", async (t) => {
  using gpu = await Gpu.create();
  await follow(t, gpu, prompts);
});

Deno.test("and so it does with its weights in buffers, as on a GPU", async (t) => {
  using gpu = await Gpu.create({ texels: false });
  await follow(t, gpu, prompts.slice(0, 2));
});

async function follow(t: Deno.TestContext, gpu: Gpu, prompts: readonly Reference[]): Promise<void> {
  using model = await openEngine(gpu, MODEL, 1024);
  const { engine } = model, { decoder, tokenizer, config: { vocab } } = engine, cache = model.cache();
  for (const { prompt, ids, argmax: likeliest, nll, last_logits_top10: top, greedy, greedy_margin } of prompts) {
    const about = `${ids.length} tokens, ${JSON.stringify(prompt.slice(0, 40))}`;
    await t.step(`on the reference's own tokens: ${about}`, async () => {
      assertEquals(tokenizer.encode(prompt), ids);
      const rows: Float32Array[] = [];
      cache.rewind(0);
      await decoder.forward([...ids, ...greedy.slice(0, -1)], cache, async (logits) => {
        const all = await gpu.readF32(logits);
        for (let at = 0; at < all.length; at += vocab) rows.push(all.subarray(at, at + vocab));
      });
      assertEquals(rows.length, ids.length + greedy.length - 1);
      likeliest.forEach((id, i) => {
        const found = argmax(rows[i]!), margin = rows[i]![found]! - rows[i]![id]!;
        assert(margin < NEAR_TIE, `at ${i} of the prompt ${found} is ahead of ${id} by ${margin}`);
      });
      greedy.forEach((id, i) => {
        if (greedy_margin[i]! >= NEAR_TIE) assertEquals(argmax(rows[ids.length - 1 + i]!), id, `token ${i}`);
      });
      const mean = ids.slice(1).reduce((sum, id, i) => sum + loss(rows[i]!, id), 0) / (ids.length - 1);
      assert(Math.abs(mean - nll) < 2e-3, `the mean loss is ${mean} and the reference's ${nll}`);
      const last = rows[ids.length - 1]!,
        worst = Math.max(...top.id.map((id, i) => Math.abs(last[id]! - top.logit[i]!)));
      assert(worst < 0.01, `a logit differs by ${worst}`); // 0.003 as measured, by the f16 cache
    });
    await t.step(`on its own: ${about}`, async () => {
      const near = greedy_margin.findIndex((margin) => margin < NEAR_TIE), sure = near < 0 ? greedy.length : near;
      cache.rewind(ids.length);
      const session = new Session(engine, cache, ids); // the prompt need not be read again
      const { tokens, promptTokens } = await session.generate(prompt, { maxTokens: sure, ignoreEos: true }).done;
      assertEquals(promptTokens, ids);
      assertEquals(tokens, greedy.slice(0, sure));
    });
  }
}
