/** Small random models of every shape and weight type, in files of either kind, against the f64 decoder. */
import { assertEquals, assertThrows } from "@std/assert";
import type { LlamaConfig } from "../../src/core/model.ts";
import { fromF16, toF16 } from "../../src/core/f16.ts";
import { Rng } from "../../src/core/rng.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { llamaRef } from "../../src/ref/llama.ts";
import { assertAsAccurateAs } from "../_assert.ts";
import { openEngine, randomLlama, type Small, type SmallLlama, VOCAB, writeFolder, writeGguf } from "../_llama.ts";

const LLAMA3 = { type: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalContext: 24 } as const;
const LINEAR = { type: "linear", factor: 2.5 } as const;
const all = (type: "F16" | "BF16" | "Q8_0" | "Q4_0" | "Q4_K" | "Q6_K") =>
  Object.fromEntries(
    ["token_embd", "output", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
      .map((name) => [name, type]),
  );

/** Tokens read at once, then one by one, then at once after these, then one by one. */
const PARTS = [19, 1, 1, 1, 1, 1, 6, 1, 1];

const CASES: [string, Small][] = [
  ["folder: F32, odd widths, heads of 32, 3 to 1, linear scaling", {
    hidden: 72,
    ffn: 88,
    qHeads: 3,
    kvHeads: 1,
    headDim: 32,
    ropeScaling: LINEAR,
  }],
  ["folder: F16, heads of 40, 1 to 1, tied, llama3 scaling", {
    hidden: 96,
    ffn: 128,
    qHeads: 2,
    kvHeads: 2,
    headDim: 40,
    tied: true,
    ropeScaling: LLAMA3,
    types: all("F16"),
  }],
  ["folder in two files: BF16, heads of 80, 8 to 1", {
    hidden: 128,
    ffn: 96,
    qHeads: 8,
    kvHeads: 1,
    headDim: 80,
    types: all("BF16"),
  }],
  ["gguf: Q8_0, heads of 64, 2 to 1, llama3 scaling as rope_freqs", {
    hidden: 128,
    ffn: 160,
    qHeads: 4,
    kvHeads: 2,
    headDim: 64,
    ropeScaling: LLAMA3,
    types: all("Q8_0"),
  }],
  ["gguf: Q4_0, heads of 128, 1 to 1, tied, linear scaling", {
    hidden: 96,
    ffn: 64,
    qHeads: 2,
    kvHeads: 2,
    headDim: 128,
    tied: true,
    ropeScaling: LINEAR,
    types: all("Q4_0"),
  }],
  ["gguf: Q4_K with Q6_K values, down and output, heads of 64, 4 to 1", {
    hidden: 256,
    ffn: 512,
    qHeads: 4,
    kvHeads: 1,
    headDim: 64,
    types: { ...all("Q4_K"), attn_v: "Q6_K", ffn_down: "Q6_K", output: "Q6_K" },
  }],
  ["gguf: Q6_K, heads of 128, 3 to 1, tied", {
    hidden: 256,
    ffn: 256,
    qHeads: 6,
    kvHeads: 2,
    headDim: 128,
    layers: 1,
    tied: true,
    types: all("Q6_K"),
  }],
  ["gguf: a type each, heads of 256", {
    hidden: 256,
    ffn: 256,
    qHeads: 2,
    kvHeads: 1,
    headDim: 256,
    types: {
      token_embd: "Q4_K",
      output: "Q8_0",
      attn_q: "Q4_0",
      attn_k: "F16",
      attn_v: "Q6_K",
      attn_output: "Q4_K",
      ffn_gate: "Q8_0",
      ffn_up: "BF16",
      ffn_down: "F32",
    },
  }],
  ["gguf: keys alone of another type, heads of 40, 2 to 1", {
    hidden: 64,
    ffn: 64,
    qHeads: 4,
    kvHeads: 2,
    headDim: 40,
    types: { attn_q: "F16", attn_k: "BF16", attn_v: "F16" },
  }],
]; // deno-fmt-ignore-line

async function write(path: string, name: string, model: SmallLlama): Promise<string> {
  if (name.startsWith("gguf")) await writeGguf(path += ".gguf", model);
  else await writeFolder(path, model, { shards: name.includes("two files") ? 2 : 1 });
  return path;
}

/** Logits after every token, read in `PARTS`. */
async function logitsOf(
  gpu: Gpu,
  path: string,
  context: number,
  ids: number[],
  parts: number[],
): Promise<Float32Array> {
  using model = await openEngine(gpu, path, context);
  const { decoder } = model.engine, cache = model.cache(), out = new Float32Array(ids.length * VOCAB);
  let at = 0;
  for (const tokens of parts) {
    if (tokens > 1) {
      await decoder.forward(ids.slice(at, at + tokens), cache, async (logits, { offset }) => {
        out.set(await gpu.readF32(logits), (at + offset) * VOCAB);
      });
    } else {
      using id = gpu.upload("id", "u32", [1], Uint32Array.of(ids[at]!));
      const commands = gpu.commands("step");
      await cache.begin(1);
      decoder.step(commands, id, cache);
      commands.submit();
      out.set(await gpu.readF32(decoder.logits), at * VOCAB);
    }
    at += tokens;
    assertEquals(cache.length, at);
  }
  return out;
}

/** Holds a model's logits to the f64 decoder's: they may err by twice what an f16 cache alone makes of those. */
async function check(gpu: Gpu, path: string, model: SmallLlama, parts: number[], seed: number): Promise<void> {
  const rng = new Rng(seed), ids = Array.from({ length: parts.reduce((a, b) => a + b) }, () => rng.below(VOCAB));
  const config = { ...model, vocab: VOCAB } as unknown as LlamaConfig, { tensors, frequencies } = model;
  const exact = llamaRef(config, tensors, ids, frequencies);
  const naive = llamaRef(config, tensors, ids, frequencies, (x) => fromF16(toF16(x)));
  assertAsAccurateAs(await logitsOf(gpu, path, model.context, ids, parts), naive, exact);
  const other = llamaRef(config, tensors, ids, frequencies.map((theta) => theta * 1.01));
  assertThrows(() => assertAsAccurateAs(other, naive, exact), Error, "exceeds"); // the bound is no open door
}

async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("logits of every shape and weight type are as accurate as the cache's rounding allows", async (t) => {
  using gpu = await Gpu.create(), other = await Gpu.create({ texels: false });
  await inFolder(async (folder) => {
    for (const [i, [name, small]] of CASES.entries()) {
      const model = randomLlama(small, i), path = await write(`${folder}/${i}`, name, model);
      await t.step(name, () => check(gpu, path, model, PARTS, 100 + i));
      if (!gpu.texels) continue;
      await t.step(`${name}, weights in buffers`, () => check(other, path, model, PARTS, 100 + i));
    }
  });
});

Deno.test("a prompt of several chunks is read right", async () => {
  using gpu = await Gpu.create();
  await inFolder(async (folder) => {
    for (const qHeads of [1, 2]) { // of 64 columns weights may lie in texels
      const hidden = 32 * qHeads, shape = { hidden, ffn: hidden, qHeads, kvHeads: 1, headDim: 32 };
      const model = randomLlama({ ...shape, context: 1200, ropeTheta: 10_000 }, 20);
      await check(gpu, await write(`${folder}/${hidden}`, "gguf", model), model, [1100, 1, 2], 120);
    }
  });
});

Deno.test("matrices that one binding does not hold are cut", async () => {
  using gpu = await Gpu.create();
  Object.defineProperty(gpu, "maxBytes", { value: 147_456 });
  await inFolder(async (folder) => {
    const model = randomLlama({ hidden: 288, ffn: 256, qHeads: 2, kvHeads: 2, headDim: 32 }, 21);
    const path = await write(`${folder}/cut`, "gguf", model);
    using opened = await openEngine(gpu, path, model.context);
    const { embed, layers: [layer] } = opened.engine.decoder.weights;
    const [{ matrix: qkv }, { matrix: gateUp }] = [layer!.qkv[0]!, layer!.gateUp[0]!];
    assertEquals([embed, qkv, gateUp].map(({ slices }) => slices.length), [3, 2, 4]);
    await check(gpu, path, model, PARTS, 121);
  });
});

Deno.test("wide matrices are multiplied in integers, as accurately", async () => {
  using gpu = await Gpu.create({ texels: false });
  const compile = gpu.compile.bind(gpu), kernels = new Set<string>();
  gpu.compile = (kernel, ...rest) => {
    kernels.add(kernel);
    return compile(kernel, ...rest);
  };
  await inFolder(async (folder) => {
    const types = { ...all("Q8_0"), attn_output: "Q4_0", ffn_gate: "Q4_0", ffn_up: "Q4_0", ffn_down: "F16" } as const;
    const model = randomLlama({ hidden: 2048, ffn: 1024, qHeads: 32, kvHeads: 8, headDim: 64, layers: 1, types }, 22);
    await check(gpu, await write(`${folder}/wide`, "gguf", model), model, [5, 1, 1], 122);
  });
  assertEquals(kernels.has("matvec_planes"), gpu.subgroups && gpu.packedDot);
});
