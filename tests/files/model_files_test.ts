import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { toFileUrl } from "@std/path";
import { FileFormatError, UnsupportedModelError } from "../../src/core/errors.ts";
import type { WeightType } from "../../src/core/model.ts";
import { llamaConfig, llamaFiles } from "../../src/files/llama_config.ts";
import {
  fingerprint,
  type ModelFiles,
  openModel,
  readFloats,
  readRows,
  type TensorFile,
} from "../../src/files/model_files.ts";
import { openSource } from "../../src/files/source.ts";
import { dequantize } from "../../src/ref/dequantize.ts";
import { randomLlama, type Small, type SmallLlama, writeFolder, writeGguf } from "../_llama.ts";
import { inFolder } from "./_files.ts";
import { serveFolder } from "./_server.ts";

const SMALL: Small = { hidden: 64, qHeads: 2, kvHeads: 1, headDim: 32, ffn: 96 };
const MATRICES = [
  "token_embd",
  "attn_q",
  "attn_k",
  "attn_v",
  "attn_output",
  "ffn_gate",
  "ffn_up",
  "ffn_down",
  "output",
];

function all(type: WeightType): Record<string, WeightType> {
  return Object.fromEntries(MATRICES.map((name) => [name, type]));
}

/** A tensor's numbers, by pieces. */
async function numbers(tensor: TensorFile, unit?: number): Promise<Float32Array> {
  const out = new Uint8Array(tensor.byteLength), rowBytes = tensor.byteLength / tensor.shape[0]!;
  for await (const { row, bytes } of readRows(tensor, unit)) out.set(bytes, row * rowBytes);
  return dequantize(tensor.type, out, tensor.shape.reduce((a, b) => a * b));
}

/** Puts rows of adjacent rotary pairs half a head apart. */
function halfSplit(values: Float32Array, cols: number, headDim: number): Float32Array {
  return values.map((_, i) => {
    const row = Math.floor(i / cols), c = row % headDim, half = headDim / 2;
    return values[(row - c + 2 * (c % half) + Math.floor(c / half)) * cols + i % cols]!;
  });
}

/** Tells the first number that differs: a whole array's diff takes minutes. */
function assertSame(actual: Float32Array, expected: Float32Array, what: string): void {
  assertEquals(actual.length, expected.length, what);
  const at = actual.findIndex((x, i) => !Object.is(x, expected[i]));
  assert(at < 0, `${what}: ${actual[at]} at ${at} should be ${expected[at]}`);
}

/** Asserts that files hold the settings and numbers of `llama`. */
async function assertHolds(files: ModelFiles, llama: SmallLlama): Promise<void> {
  const config = llamaConfig(files), found = llamaFiles(files, config);
  const { layers, hidden, qHeads, kvHeads, headDim, ffn, context, ropeTheta } = llama;
  const expected = { layers, hidden, qHeads, kvHeads, headDim, ffn, context, ropeTheta, tiedEmbeddings: llama.tied };
  assertEquals({ ...config, ...expected }, config);
  for (const [l, layer] of found.layers.entries()) {
    for (const [part, tensor] of Object.entries(layer) as [keyof typeof layer, TensorFile][]) {
      const rotary = config.interleavedRope && (part === "q" || part === "k");
      const values = await numbers(tensor, rotary ? headDim : 1), told = llama.tensors.layers[l]![part];
      assertSame(rotary ? halfSplit(values, hidden, headDim) : values, told, `${l}.${part}`);
    }
  }
  assertSame(await numbers(found.embed), llama.tensors.embed, "embed");
  assertSame(await readFloats(found.norm), llama.tensors.norm, "norm");
  assertEquals(found.output === undefined, llama.tied);
  if (found.output) assertSame(await numbers(found.output), llama.tensors.output!, "output");
}

Deno.test("openModel() gives the numbers that a GGUF holds, of every type", () =>
  inFolder(async (folder) => {
    const types = { token_embd: "F16", attn_q: "Q6_K", attn_k: "Q4_K", attn_v: "Q4_0", ffn_down: "BF16" } as const;
    const llama = randomLlama(
      { hidden: 256, ffn: 64, headDim: 64, qHeads: 6, kvHeads: 3, types: { ...all("Q8_0"), ...types } },
      2,
    );
    await writeGguf(`${folder}/mixed.gguf`, llama);
    using files = await openModel(`${folder}/mixed.gguf`);
    assertEquals([files.kind, files.name, files.tokenizer.kind], ["gguf", "mixed.gguf", "gguf"]);
    await assertHolds(files, llama);
  }));

Deno.test("openModel() gives the numbers that a folder holds, in one file or several, with and without an index", () =>
  inFolder(async (folder) => {
    for (const type of ["F32", "F16", "BF16"] as const) {
      for (const shards of [1, 3]) {
        const llama = randomLlama({ ...SMALL, tied: type === "F16", types: all(type) }, 3),
          path = `${folder}/${type}${shards}`;
        await writeFolder(path, llama, { shards });
        for (const index of ["with", "without"]) {
          if (index === "without" && shards > 1) await Deno.remove(`${path}/model.safetensors.index.json`);
          using files = await openModel(`${path}/`);
          assertEquals([files.kind, files.name, files.tokenizer.kind], ["hf", `${type}${shards}`, "hf"]);
          await assertHolds(files, llama);
        }
      }
    }
  }));

Deno.test("openModel() believes no index that its files belie", () =>
  inFolder(async (folder) => {
    await writeFolder(folder, randomLlama(SMALL, 3), { shards: 2 });
    const path = `${folder}/model.safetensors.index.json`,
      { weight_map: map } = JSON.parse(await Deno.readTextFile(path));
    const name = "model.norm.weight",
      told = map[name],
      other = `model-${told.startsWith("model-1") ? 2 : 1}-of-2.safetensors`;
    await Deno.writeTextFile(path, JSON.stringify({ weight_map: { ...map, [name]: other } }));
    await assertRejects(() => openModel(folder), FileFormatError, `has '${name}' in ${other}, where it is not`);
  }));

Deno.test("openModel() takes file: and http: URLs", () =>
  inFolder(async (folder) => {
    const llama = randomLlama(SMALL, 4);
    await writeFolder(`${folder}/a model`, llama);
    await writeGguf(`${folder}/a model/x.gguf`, llama);
    await Deno.writeTextFile(`${folder}/a model/chat_template.jinja`, "{{ messages }}");
    await using server = serveFolder(folder);
    const file = toFileUrl(`${folder}/a model`).href, web = new URL("a model", server.url).href;
    for (
      const location of [file, `${file}/`, web, `${web}/`, new URL(`${file}/x.gguf`), `${web}/x.gguf?download=true`]
    ) {
      using files = await openModel(location);
      await assertHolds(files, llama);
      if (files.tokenizer.kind === "hf") assertEquals(files.tokenizer.chatTemplate, "{{ messages }}");
    }
  }));

Deno.test("readRows() gives pieces of 4 MiB at most, of whole units", () =>
  inFolder(async (folder) => {
    const shape = [40_000, 64], data = Uint8Array.from({ length: 40_000 * 64 * 4 }, (_, i) => i >> 8);
    await Deno.writeFile(`${folder}/rows`, data);
    using source = await openSource(`${folder}/rows`);
    const tensor = { name: "w", type: "F32", shape, byteLength: data.length, source, offset: 0 } as const;
    const pieces: number[] = [];
    let at = 0;
    for await (const { row, bytes } of readRows(tensor, 96)) {
      assertEquals(row * 256, at);
      assert(bytes.every((byte, i) => byte === data[at + i]));
      pieces.push(bytes.length / 256);
      at += bytes.length;
    }
    assertEquals(pieces, [16_320, 16_320, 7360]);
    // Two readings at once do not write into each other's pieces.
    for await (const { row, bytes } of readRows(tensor, 96)) {
      for await (const other of readRows(tensor, 40_000)) assertEquals(other.bytes.length, data.length);
      assert(bytes.every((byte, i) => byte === data[row * 256 + i]));
    }
  }));

Deno.test("readFloats() reads plain types and refuses blocks", () =>
  inFolder(async (folder) => {
    for (const type of ["F32", "F16", "BF16", "Q8_0"] as const) {
      const llama = randomLlama({ ...SMALL, types: all(type) }, 6), path = `${folder}/${type}.gguf`;
      await writeGguf(path, llama);
      using files = await openModel(path);
      const read = () => readFloats(files.tensors.get("token_embd.weight")!);
      if (type !== "Q8_0") assertSame(await read(), llama.tensors.embed, type);
      else {await assertRejects(
          read,
          UnsupportedModelError,
          "'token_embd.weight' as it must be of type F32, F16 or BF16",
        );}
    }
  }));

Deno.test("fingerprint() is the same for the same weights, and only for them", () =>
  inFolder(async (folder) => {
    let count = 0;
    const print = async (small: Small, seed: number, shards: number): Promise<string> => {
      const path = `${folder}/${count++}`;
      await writeFolder(path, randomLlama(small, seed), { shards });
      using files = await openModel(path);
      return await fingerprint(files);
    };
    const first = await print(SMALL, 1, 1);
    assert(/^[0-9a-f]{64}$/.test(first));
    assertEquals(await print(SMALL, 1, 3), first);
    assertNotEquals(await print(SMALL, 2, 1), first);
    assertNotEquals(await print({ ...SMALL, types: { ffn_up: "F16" } }, 1, 1), first);
  }));

Deno.test("openModel() says in one sentence what is missing", () =>
  inFolder(async (folder) => {
    const open = () => openModel(folder), { NotFound } = Deno.errors;
    const without = async (file: string, check: () => Promise<unknown>): Promise<void> => {
      await Deno.rename(`${folder}/${file}`, `${folder}/away`);
      await check();
      await Deno.rename(`${folder}/away`, `${folder}/${file}`);
    };
    await writeFolder(folder, randomLlama(SMALL, 7), { shards: 2 });
    await without("config.json", () => assertRejects(open, NotFound, "config.json as there is no such file"));
    await without("tokenizer.json", () => assertRejects(open, NotFound, "tokenizer.json as there is no such file"));
    const second = "model-2-of-2.safetensors";
    await without(second, () => assertRejects(open, NotFound, `${second} as there is no such file`));
    await without("tokenizer_config.json", async () => (await open())[Symbol.dispose]());
    for (const { name } of [...Deno.readDirSync(folder)]) {
      if (name.includes("safetensors")) Deno.removeSync(`${folder}/${name}`);
    }
    await assertRejects(open, NotFound, "as it has no .safetensors file: give");
    await assertRejects(() => openModel(`${folder}/none`), NotFound, "none/config.json as there is no such file");
    await assertRejects(() => openModel(`${folder}/none.gguf`), NotFound, "none.gguf as there is no such file");
    await assertRejects(() => openModel(`${folder}/config.json`), FileFormatError, "give a .gguf file or a folder");
  }));
