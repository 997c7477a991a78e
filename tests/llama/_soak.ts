/** A thousand tokens in many sessions, in a process of its own: other tests' memory would count as this one's. */
import { assert, assertEquals } from "@std/assert";
import { load } from "../../src/llama/llama.ts";
import { plainDevice } from "../_gpu.ts";

/** Megabytes that the host may grow by in a thousand tokens: V8 collects when it likes. */
const HOST_MB = 100;

const { device, bytes } = await plainDevice();
{
  using llama = await load(Deno.args[0]!, { device });
  /** A round of 50 tokens in every way that there is to begin and to end. */
  const round = async (seed: number): Promise<number> => {
    const options = { seed, temperature: 1, ignoreEos: true, maxTokens: 10 };
    using session = llama.session();
    const { text } = await session.generate(`It is round ${seed}`, options).done;
    using fork = session.fork();
    const forked = fork.generate(`It is round ${seed}${text}`, { ...options, topK: 5, repetitionPenalty: 1.1 });
    session.rewind(3);
    const [one, two] = await Promise.all([session.generate("It was", options).done, forked.done]);
    const three = await llama.generate("And so on", { ...options, logitBias: { 5: 1 }, topP: 0.9 }).done;
    let made = 10 + one.tokens.length + two.tokens.length + three.tokens.length;
    for await (const _ of llama.generate("And so", { ...options, maxTokens: 100 })) if (++made % 50 === 0) break;
    return made;
  };
  await llama.generate("x".repeat(250), { maxTokens: 1 }).done; // activations of the longest prompt stay
  await round(0);
  const before = bytes(), rss = Deno.memoryUsage().rss;
  let tokens = 0;
  for (let seed = 1; tokens < 1000; seed++) {
    tokens += await round(seed);
    assertEquals(bytes(), before, `after ${tokens} tokens`);
  }
  const grown = (Deno.memoryUsage().rss - rss) / 1e6;
  assert(grown < HOST_MB, `the host's memory grew by ${grown} MB`);
  console.log(`${tokens} tokens, the host's memory grew by ${grown.toFixed(1)} MB`);
}
assertEquals(bytes(), 0, "buffers that the model left");
device.destroy();
