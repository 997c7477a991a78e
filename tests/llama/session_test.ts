/** Sessions and generations of a small random model, as a caller has them. */
import { assert, assertEquals, assertNotEquals, assertRejects, assertThrows } from "@std/assert";
import type { LlamaConfig } from "../../src/core/model.ts";
import { UnsupportedModelError } from "../../src/core/errors.ts";
import type { GeneratedToken } from "../../src/llama/generation.ts";
import { type Llama, load, type LoadOptions } from "../../src/llama/llama.ts";
import type { GenerateOptions } from "../../src/llama/session.ts";
import { llamaRef } from "../../src/ref/llama.ts";
import { plainDevice } from "../_gpu.ts";
import { lettersOf, randomLlama, VOCAB, writeFolder } from "../_llama.ts";

const CONTEXT = 64, EOS = 1;
const model = randomLlama({ hidden: 64, ffn: 96, qHeads: 4, kvHeads: 2, headDim: 32, context: CONTEXT }, 7);

async function withModel(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await writeFolder(folder, model);
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function withLlama(body: (llama: Llama) => Promise<void>, options: LoadOptions = {}): Promise<void> {
  await withModel(async (folder) => {
    using llama = await load(folder, options);
    await body(llama);
  });
}

/** Log-probabilities of a generation's tokens: more than its text, they show what it attended to. */
async function logprobsOf(generation: AsyncIterable<GeneratedToken>): Promise<number[]> {
  return (await Array.fromAsync(generation)).map(({ logprob }) => logprob!);
}

Deno.test("sessions", async (t) => {
  await withLlama(async (llama) => {
    const logitBias = lettersOf(llama.tokenizer), greedy: GenerateOptions = { logitBias, maxTokens: 8 };
    const prompt = "once upon", ids = llama.tokenizer.encode(prompt);
    const { text, tokens } = await llama.generate(prompt, greedy).done;
    const longer = prompt + text + " and", { text: afterLonger } = await llama.generate(longer, greedy).done;

    await t.step("a turn reuses what the one before left", async () => {
      using session = llama.session();
      const first = await session.generate(prompt, greedy).done;
      assertEquals([first.text, first.tokens], [text, tokens]);
      assertEquals([first.usage.promptTokens, first.usage.reusedTokens, first.usage.generatedTokens], [10, 0, 8]);
      assertEquals(session.tokens, [...ids, ...tokens]);
      const second = await session.generate(longer, greedy).done;
      assertEquals(second.text, afterLonger);
      assertEquals([second.usage.promptTokens, second.usage.reusedTokens], [22, 18]);
      session.rewind(18);
      const warm = await logprobsOf(session.generate(longer, { ...greedy, logprobs: true }));
      using fresh = llama.session();
      const cold = await logprobsOf(fresh.generate(longer, { ...greedy, logprobs: true }));
      cold.forEach((logprob, i) => assert(Math.abs(logprob - warm[i]!) < 1e-3, `${logprob} and ${warm[i]} at ${i}`));
      const again = await session.generate(longer, greedy).done; // the last token's logits are wanted anew
      assertEquals([again.text, again.usage.reusedTokens], [afterLonger, 21]);
      const other = await session.generate("once more", greedy).done; // "once " is common
      assertEquals(other.usage.reusedTokens, 6);
      assertEquals(other.text, (await llama.generate("once more", greedy).done).text);
      assertEquals([first.usage.kvBytes, first.usage.kvF16Bytes], [session.bytes, 18 * 2 * 2 * 2 * 2 * 32]);
      assertEquals(llama.kv.bytes, session.bytes);
    });

    await t.step("rewinding forgets the end", async () => {
      using session = llama.session();
      await session.generate(longer, greedy).done;
      session.rewind(4);
      assertEquals(session.tokens, llama.tokenizer.encode(longer).slice(0, 4));
      const { text: again, usage } = await session.generate(prompt, greedy).done;
      assertEquals([again, usage.reusedTokens], [text, 4]);
      session.rewind(0);
      assertEquals((await session.generate(prompt, greedy).done).usage.reusedTokens, 0);
      for (const length of [-1, 1.5, 19, NaN]) {
        assertThrows(() => session.rewind(length), RangeError, `Cannot rewind to ${length} tokens`);
      }
    });

    await t.step("a fork goes on from the same place with memory of its own", async () => {
      using session = llama.session();
      await session.generate(prompt, greedy).done;
      using fork = session.fork();
      assertEquals([fork.tokens, fork.bytes], [session.tokens, session.bytes]);
      const options = { ...greedy, logprobs: true }, forked = fork.generate(longer, options);
      const logprobs = await logprobsOf(forked);
      assertEquals((await forked.done).usage.reusedTokens, 18);
      await fork.generate("another thing altogether", greedy).done;
      assertEquals(session.tokens, [...ids, ...tokens]);
      const own = session.generate(longer, options);
      assertEquals(await logprobsOf(own), logprobs);
      assertEquals((await own.done).usage.reusedTokens, 18);
      using empty = llama.session(), alike = empty.fork();
      assertEquals((await alike.generate(prompt, greedy).done).text, text);
    });

    await t.step("the text ends where it is told to", async () => {
      const run = async (options: GenerateOptions) => {
        const { text, tokens, stopReason, usage } = await llama.generate(prompt, { ...greedy, ...options }).done;
        assertEquals(usage.generatedTokens, tokens.length);
        return [text, tokens.length, stopReason];
      };
      const at = text.indexOf(text.slice(3, 6)), stop = tokens.indexOf(tokens[4]!);
      assertEquals(await run({}), [text, 8, "length"]);
      assertEquals(await run({ maxTokens: 0 }), ["", 0, "length"]);
      assertEquals(await run({ maxTokens: 1 }), [text[0], 1, "length"]);
      assertEquals(await run({ stop: text.slice(3, 6) }), [text.slice(0, at), at + 3, "stop"]);
      assertEquals(await run({ stop: ["nowhere", text.slice(3, 6)] }), [text.slice(0, at), at + 3, "stop"]);
      assertEquals(await run({ stop: [tokens[4]!] }), [text.slice(0, stop), stop, "stop"]);
      assertEquals(await run({ stop: tokens[4]! }), [text.slice(0, stop), stop, "stop"]);
      const ends = { logitBias: { [EOS]: 1e4 } };
      assertEquals(await run(ends), ["", 0, "eos"]);
      assertEquals(await run({ ...ends, ignoreEos: true }), ["</s>".repeat(8), 8, "length"]);
    });

    await t.step("seeds decide", async () => {
      const run = async (seed: number) => (await llama.generate(prompt, { ...greedy, temperature: 2, seed }).done).text;
      assertEquals(await run(5), await run(5));
      assertNotEquals(await run(5), await run(6));
      const options = { ...greedy, temperature: 2 }; // a random seed
      assertNotEquals(
        (await llama.generate(prompt, options).done).text,
        (await llama.generate(prompt, options).done).text,
      );
    });

    await t.step("an abort keeps what was made, and the session goes on", async () => {
      using session = llama.session();
      const controller = new AbortController(), { signal } = controller;
      const reading = session.generate(prompt, { ...greedy, signal, onPrefill: () => controller.abort() });
      const { stopReason, tokens: none, promptTokens } = await reading.done;
      assertEquals([stopReason, none, promptTokens, session.tokens], ["abort", [], ids, []]);
      const before = await session.generate(prompt, { ...greedy, signal: AbortSignal.abort() }).done;
      assertEquals([before.stopReason, before.text], ["abort", ""]);
      const during = new AbortController(), writing = session.generate(prompt, { ...greedy, signal: during.signal });
      let seen = "";
      for await (const { text } of writing) {
        seen += text;
        if (seen.length === 3) during.abort();
      }
      const kept = await writing.done;
      assertEquals([kept.stopReason, kept.text, seen], ["abort", text.slice(0, 3), text.slice(0, 3)]);
      assertEquals((await session.generate(prompt, greedy).done).text, text);
    });

    await t.step("leaving the loop keeps what was made, and the session goes on", async () => {
      using session = llama.session();
      const generation = session.generate(prompt, greedy);
      for await (const { text: part } of generation) if (part === text[2]) break;
      const { text: kept, stopReason } = await generation.done;
      assertEquals([kept, stopReason], [text.slice(0, text.indexOf(text[2]!) + 1), "abort"]);
      assertEquals((await session.generate(prompt, greedy).done).text, text);
    });

    await t.step("generations beside each other do not disturb each other", async () => {
      const prompts = [prompt, longer, "a", "the quick brown fox jumps over", ""];
      const alone: string[] = [];
      for (const prompt of prompts) alone.push((await llama.generate(prompt, greedy).done).text);
      const together = await Promise.all(prompts.map((prompt) => llama.generate(prompt, greedy).done));
      assertEquals(together.map(({ text }) => text), alone);
      assertEquals(new Set(alone).size, prompts.length);
    });

    await t.step("one session generates one text at a time", async () => {
      using session = llama.session();
      const first = session.generate(prompt, greedy).done, second = session.generate(prompt, greedy).done;
      await assertRejects(() => second, TypeError, "Cannot generate as the session is generating");
      assertThrows(() => session.rewind(0), TypeError, "Cannot rewind as the session is generating");
      assertThrows(() => session.fork(), TypeError, "Cannot fork as the session is generating");
      assertEquals((await first).text, text);
    });

    await t.step("a full context ends the text, and a longer prompt is refused", async () => {
      using session = llama.session();
      const most = "x".repeat(CONTEXT - 1); // and BOS
      const { tokens, stopReason } = await session.generate(most, greedy).done;
      assertEquals([tokens.length, stopReason, session.tokens.length], [1, "length", CONTEXT]);
      const { tokens: five, stopReason: reason } = await session.generate(most.slice(4), greedy).done;
      assertEquals([five.length, reason, session.tokens.length], [5, "length", CONTEXT]);
      const sentence = `Cannot read a prompt of ${CONTEXT + 1} tokens as the context holds ${CONTEXT}`;
      await assertRejects(() => session.generate(most + "x", greedy).done, RangeError, sentence);
      await assertRejects(
        async () => {
          for await (const _ of session.generate(most + "x", greedy));
        },
        RangeError,
        sentence,
      );
      assertEquals((await session.generate(prompt, greedy).done).text, text);
    });

    await t.step("log-probabilities are the model's", async () => {
      const config = { ...model, vocab: VOCAB } as unknown as LlamaConfig, logprobs: number[] = [];
      const generation = llama.generate("", { maxTokens: 8, logprobs: true, ignoreEos: true }); // BOS alone
      for await (const { logprob } of generation) logprobs.push(logprob!);
      const { tokens, promptTokens } = await generation.done;
      assertEquals([promptTokens, tokens.length, logprobs.length], [[0], 8, 8]);
      const logits = llamaRef(config, model.tensors, [0, ...tokens], model.frequencies);
      tokens.forEach((id, i) => {
        const row = logits.subarray(i * VOCAB, (i + 1) * VOCAB), most = Math.max(...row);
        const sum = row.reduce((sum, logit) => sum + Math.exp(logit - most), 0);
        assertEquals(row.indexOf(most), id);
        assert(Math.abs(row[id]! - most - Math.log(sum) - logprobs[i]!) < 0.01, `logprob ${i} is ${logprobs[i]}`);
      });
    });

    await t.step("messages need a chat template", async () => {
      const messages = [{ role: "user", content: "hello" }];
      await assertRejects(() => llama.generate(messages).done, UnsupportedModelError, "Cannot use messages as");
      assertEquals((await llama.generate(prompt, greedy).done).text, text);
    });

    await t.step("what is disposed of says so", async () => {
      const session = llama.session(), running = session.generate(prompt, greedy);
      let seen = 0;
      await assertRejects(
        async () => {
          for await (const _ of running) if (++seen === 2) session[Symbol.dispose]();
        },
        TypeError,
        "Cannot generate as the session was disposed of",
      );
      assertEquals(seen, 2);
      session[Symbol.dispose]();
      await assertRejects(
        () => session.generate(prompt).done,
        TypeError,
        "Cannot generate as the session was disposed",
      );
      assertThrows(() => session.fork(), TypeError, "Cannot fork as the session was disposed of");
      assertThrows(() => session.rewind(0), TypeError, "Cannot rewind as the session was disposed of");
      assertEquals((await llama.generate(prompt, greedy).done).text, text);
    });
  });
});

Deno.test("a caller's own device is used, given back whole, and not destroyed", async () => {
  const { device, bytes } = await plainDevice();
  await withModel(async (folder) => {
    const before = bytes();
    const llama = await load(folder, { device }), loaded = bytes(), logitBias = lettersOf(llama.tokenizer);
    const options = { maxTokens: 4, logitBias };
    for (const refused of [{ temperature: -1 }, { maxTokens: 1.5 }, { maxTokens: -1 }, { topP: 0 }, { seed: 0.5 }]) {
      assertThrows(() => llama.generate("a", refused), RangeError, "Cannot");
    }
    assertThrows(() => llama.generate("a", { stop: "" }), TypeError, "Cannot stop at a string");
    llama.generate("never run");
    assertEquals(bytes(), loaded);
    await llama.generate("the longest", options).done; // its activations stay for the next
    const { text } = await llama.generate("a", options).done, one = bytes();
    for await (const _ of llama.generate("ab", options));
    assertEquals((await llama.generate("a", options).done).text, text);
    for await (const _ of llama.generate("a", options)) break;
    await assertRejects(() => llama.generate("x".repeat(CONTEXT), options).done, RangeError);
    assertEquals(bytes(), one); // one session is kept and used again
    await Promise.all(["a", "b", "c"].map((prompt) => llama.generate(prompt, options).done));
    const session = llama.session();
    await session.generate("abc", options).done;
    session.fork()[Symbol.dispose]();
    session[Symbol.dispose]();
    assertEquals(bytes(), one);
    const unfinished = llama.generate("abc", options)[Symbol.asyncIterator]();
    await unfinished.next();
    llama[Symbol.dispose]();
    await assertRejects(() => unfinished.next(), TypeError, "Cannot generate as the model was disposed of");
    await assertRejects(
      () => llama.generate("a").done,
      TypeError,
      "Cannot start a session as the model was disposed of",
    );
    assertThrows(() => llama.session(), TypeError, "Cannot start a session as the model was disposed of");
    assertEquals(bytes(), before);

    using alone = await load(folder);
    assertEquals((await alone.generate("a", options).done).text, text); // with every limit, the same
  });
  device.pushErrorScope("validation");
  device.createBuffer({ size: 16, usage: GPUBufferUsage.STORAGE }).destroy();
  assertEquals(await device.popErrorScope(), null);
  device.destroy();
});

Deno.test("loading reports, gives up and refuses", async () => {
  const { device, bytes } = await plainDevice();
  await withModel(async (folder) => {
    const seen: number[] = [];
    let last = 0;
    using _ = await load(folder, {
      onProgress: ({ phase, loaded, total }) => {
        if (phase === "weights") seen.push(loaded), last = total;
      },
    });
    assert(seen.every((loaded, i) => i === 0 || loaded >= seen[i - 1]!));
    assertEquals(seen.at(-1), last);
    const controller = new AbortController(), { signal } = controller;
    await assertRejects(() => load(folder, { device, signal, onProgress: () => controller.abort() }), DOMException);
    await assertRejects(
      () => load(folder, { device, maxContext: CONTEXT + 1 }),
      RangeError,
      "Cannot load with a context",
    );
    await assertRejects(() => load(folder, { device, maxContext: 0 }), RangeError, "Cannot load with a context of 0");
    assertEquals(bytes(), 0);
  });
  device.destroy();
});
