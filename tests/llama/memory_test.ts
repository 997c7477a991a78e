/** Memory asked for and refused: what is said, and that it can be heeded. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { GpuMemoryError } from "../../src/core/errors.ts";
import { inside, type KvOptions, load } from "../../src/llama/llama.ts";
import { plainDevice } from "../_gpu.ts";
import { CODES, go, IDS, SHAPE, TIERS, within } from "./_small.ts";

/**
 * A device that refuses what makes it more than `most` bytes, as a GPU does: by an error scope. One that is left open can
 * crash the process as it ends (lavapipe).
 */
async function smallDevice() {
  const { device, bytes } = await plainDevice(), create = device.createBuffer.bind(device);
  const push = device.pushErrorScope.bind(device), pop = device.popErrorScope.bind(device);
  const limit = { most: Infinity }, scopes: { isMemory: boolean; refused: boolean }[] = [];
  void device.adapterInfo; // deno 2.9 panics where its first use finds the adapter collected
  device.pushErrorScope = (filter) => {
    scopes.push({ isMemory: filter === "out-of-memory", refused: false });
    push(filter);
  };
  device.createBuffer = (descriptor) => {
    const scope = scopes.at(-1), refused = scope?.isMemory && bytes() + descriptor.size > limit.most;
    if (refused) scope.refused = true;
    const buffer = create(refused ? { ...descriptor, size: 4 } : descriptor);
    return Object.defineProperty(buffer, "size", { value: descriptor.size });
  };
  device.popErrorScope = async () => {
    const { refused } = scopes.pop()!, error = await pop();
    return refused ? new GPUOutOfMemoryError("no memory") : error;
  };
  return { device, bytes, limit, [Symbol.dispose]: () => device.destroy() };
}

/** The number after some words of a sentence. */
function numberAfter(words: string, sentence: string): number {
  return Number(new RegExp(`${words} (\\d+)`).exec(sentence)?.[1]);
}

async function refusal(action: () => Promise<unknown>): Promise<string> {
  const { message } = await assertRejects(action, GpuMemoryError);
  assert(!message.includes("\n") && message.startsWith("Cannot "), message);
  return message;
}

for (
  const [name, kv, remedy] of [
    ["exact", {}, true],
    ["coded", CODES, true],
    ["in tiers", TIERS, true],
    ["smallest", { ...CODES, bits: 1 }, false],
  ] as [string, KvOptions, boolean][]
) {
  Deno.test(`a cache that is refused says what would fit: ${name}`, () =>
    within(async (_, open) => {
      using small = await smallDevice();
      const { device, bytes, limit } = small, maxContext = 512;
      using llama = await open(kv, { device });
      using session = llama.session();
      await go(session, IDS); // what a prompt takes beside the cache is there
      session[Symbol.dispose]();
      const used = bytes();
      limit.most = used + Math.floor(0.9 * llama.kv.bytes);
      const message = await refusal(() => llama.generate(IDS, { maxTokens: 1 }).done);
      assert(
        message.startsWith(`Cannot hold ${maxContext} tokens as their cache takes ${llama.kv.bytes} bytes and`),
        message,
      );
      assertEquals(message.includes("keep the cache at kv bits 1"), remedy);
      assertEquals(bytes(), used, "what was granted of it was not freed");
      const fits = numberAfter("maxContext of at most", message);
      assert(fits >= 32 && fits < 0.9 * maxContext, message);
      await refusal(() => llama.session().save("/nowhere"));
      limit.most = Infinity;
      await llama.generate(IDS, { maxTokens: 1 }).done; // and there is no harm done
      llama[Symbol.dispose]();
      using again = await open(kv, { device, maxContext: fits });
      assert(again.kv.bytes < 0.9 * llama.kv.bytes);
    }));
}

Deno.test("a prompt takes smaller segments where memory is refused, and says what would fit where none helps", () =>
  within(async (_, open) => {
    using small = await smallDevice();
    const { device, bytes, limit } = small;
    using llama = await open(CODES, { device });
    const ids = [...IDS, ...IDS];
    using warm = llama.session();
    await go(warm, IDS.slice(0, 2), 1);
    using session = llama.session();
    const { kvHeads, headDim } = SHAPE, staging = 4 * kvHeads * headDim * 300, row = 4 * 64, sampling = 40_000;
    limit.most = bytes() + staging + 130 * row + sampling;
    await go(session, ids, 1);
    assertEquals(session.tokens.length, 301);
    const segment = inside(llama).decoder.promptBytes / row;
    assert(segment >= 64 && segment <= 150, `${segment}`);

    using second = await smallDevice();
    using little = await open(CODES, { device: second.device });
    using short = little.session();
    await go(short, IDS.slice(0, 2), 1);
    second.limit.most = second.bytes() + Math.floor(0.7 * staging);
    const message = await refusal(() => go(short, ids, 1));
    assert(message.startsWith("Cannot read a prompt of 303 tokens as the keys and values of one layer take"), message);
    const fits = numberAfter("shorten it to at most", message);
    assert(fits > 32 && fits < 300, message);
    await go(short, ids.slice(0, 40), 1);
  }));

Deno.test("weights that are refused, and contexts that no binding holds, say so at once", () =>
  within(async (_folder, _open, path) => {
    using small = await smallDevice();
    const { device, bytes, limit } = small;
    limit.most = 300_000;
    const message = await refusal(() => load(path, { device }));
    assert(
      /^Cannot load 7 as its weights take \d+ bytes and the GPU granted \d+: use a smaller model/.test(message),
      message,
    );
    assert(numberAfter("take", message) > numberAfter("granted", message), message);
    assertEquals(bytes(), 0);
    Object.defineProperty(device, "limits", {
      value: { maxStorageBufferBindingSize: 2 ** 15, maxBufferSize: 2 ** 30 },
    });
    const binds = await refusal(() => load(path, { device, maxContext: 512 }));
    assertEquals(
      binds,
      "Cannot hold 512 tokens as the keys of a layer take 65536 bytes and this device binds at most 32768 at once: load with a maxContext of at most 256",
    );
  }));
