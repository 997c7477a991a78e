import { assert } from "@std/assert";
import { join } from "@std/path";
import { FileFormatError, UnsupportedModelError } from "../../src/core/errors.ts";
import { ropeFrequencies } from "../../src/core/rope.ts";
import { llamaConfig, llamaFiles } from "../../src/files/llama_config.ts";
import { openModel, readFloats } from "../../src/files/model_files.ts";
import { createTokenizer } from "../../src/text/tokenizer.ts";
import {
  bundledTokenizer,
  gguf,
  type GgufEntry,
  ggufMetadata,
  ggufTensors,
  hfConfig,
  hfWeights,
  inFolder,
  truncations,
} from "./_files.ts";

/** Everything that loading does before the GPU. */
async function open(path: string): Promise<void> {
  using files = await openModel(path);
  const config = llamaConfig(files), { ropeFreqs } = llamaFiles(files, config);
  ropeFrequencies(config, ropeFreqs && await readFloats(ropeFreqs));
  createTokenizer(files.tokenizer as Parameters<typeof createTokenizer>[0]);
}

/** Bytes that this test's own isolate holds: files are read by JavaScript alone, and tests share their process. */
function held(): number {
  const { heapUsed, external } = Deno.memoryUsage();
  return heapUsed + external;
}

/** Asserts that each damaged file ends in a typed error with one sentence, soon and in little memory. */
async function refuses(cases: AsyncIterable<[string, string]> | Iterable<[string, string]>): Promise<number> {
  let count = 0;
  const before = held();
  for await (const [what, path] of cases) {
    const start = performance.now();
    let error: unknown;
    try {
      await open(path);
    } catch (thrown) {
      error = thrown;
    }
    assert(
      error instanceof FileFormatError || error instanceof UnsupportedModelError,
      `${what}: ${error ?? "was accepted"}`,
    );
    assert(/^Cannot .{10,}/.test(error.message) && error.message.length < 600, `${what}: ${error.message}`);
    assert(performance.now() - start < 3000, `${what} took ${performance.now() - start} ms`);
    const grown = held() - before;
    assert(grown < 2 ** 30, `${what} took ${grown} bytes`);
    count++;
  }
  return count;
}

/** Values that no number of a config may have. */
const NONSENSE = [-1, 0, 1.5, NaN, Infinity, -Infinity, 2 ** 31 - 1, 1e30];

function* damagedGguf(): Generator<[string, Uint8Array]> {
  const metadata = ggufMetadata(), tensors = ggufTensors(), whole = gguf(metadata, tensors);
  for (const [i, bytes] of truncations(whole, 80, 1).entries()) {
    yield [`truncation ${i} to ${bytes.length} bytes`, bytes];
  }
  yield ["no bytes", new Uint8Array(0)];
  for (const magic of [0, 0x47475546, 0x46554748]) yield [`magic ${magic}`, gguf(metadata, tensors, { magic })];
  for (const version of [0, 1, 4, 2 ** 31]) yield [`version ${version}`, gguf(metadata, tensors, { version })];
  for (const count of [2n ** 63n, 2n ** 40n, 1e6, tensors.length + 1]) {
    yield [`${count} tensors`, gguf(metadata, tensors, { tensors: count })];
  }
  for (const count of [2n ** 63n, 2n ** 40n, 1e6, Object.keys(metadata).length + 1]) {
    yield [`${count} keys`, gguf(metadata, tensors, { keys: count })];
  }
  const numeric = [
    "llama.block_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.feed_forward_length",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
  ];
  for (const key of numeric) {
    for (const value of NONSENSE) {
      yield [`${key} = ${value}`, gguf({ ...metadata, [key]: { type: "f32", value } }, tensors)];
    }
    yield [`${key} as text`, gguf({ ...metadata, [key]: { type: "string", value: "many" } }, tensors)];
    const { [key]: _, ...rest } = metadata;
    if (key !== "llama.attention.head_count_kv") yield [`no ${key}`, gguf(rest, tensors)];
  }
  for (const value of [-1, NaN, Infinity, 0.5]) {
    yield [
      `epsilon ${value}`,
      gguf({ ...metadata, "llama.attention.layer_norm_rms_epsilon": { type: "f32", value } }, tensors),
    ];
  }
  for (const value of [-1, NaN, Infinity, 0]) {
    yield [`RoPE base ${value}`, gguf({ ...metadata, "llama.rope.freq_base": { type: "f32", value } }, tensors)];
  }
  for (const value of [3, 7, 48, 2 ** 30]) {
    yield [`alignment ${value}`, gguf({ ...metadata, "general.alignment": { type: "u32", value } }, tensors)];
  }
  for (
    const [key, value] of [
      ["general.architecture", "mamba"],
      ["general.architecture", ""],
      ["llama.rope.scaling.type", "yarn"],
      ["tokenizer.ggml.model", "bert"],
      ["tokenizer.ggml.pre", "unheard-of"],
    ] as const
  ) yield [`${key} ${value}`, gguf({ ...metadata, [key]: { type: "string", value } }, tensors)];
  for (const key of ["general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.pre"]) {
    const { [key]: _, ...rest } = metadata;
    yield [`no ${key}`, gguf(rest, tensors)];
  }
  yield ["experts", gguf({ ...metadata, "llama.expert_count": { type: "u32", value: 8 } }, tensors)];
  yield ["partial rotation", gguf({ ...metadata, "llama.rope.dimension_count": { type: "u32", value: 16 } }, tensors)];
  for (const [i, entry] of tensors.entries()) {
    const replaced = (change: Partial<GgufEntry>) => gguf(metadata, tensors.with(i, { ...entry, ...change }));
    yield [`${entry.name} missing`, gguf(metadata, tensors.toSpliced(i, 1))];
    yield [`${entry.name} of another shape`, replaced({ dims: entry.dims.map((d) => Number(d) / 2) })];
    yield [`${entry.name} huge`, replaced({ dims: [2n ** 39n, 2n ** 39n] })];
    yield [`${entry.name} past the end`, replaced({ offset: 2 ** 24 })];
    yield [`${entry.name} at a negative offset`, replaced({ offset: -32 })];
    yield [`${entry.name} askew`, replaced({ offset: 5 })];
    yield [`${entry.name} over another`, replaced({ offset: i ? 0 : 64 * 300 * 4 })];
    for (const type of [13, 99]) yield [`${entry.name} of type ${type}`, replaced({ type })];
    yield [`${entry.name} twice`, gguf(metadata, [...tensors, entry])];
    yield [`${entry.name} of no dimension`, replaced({ dims: [] })];
  }
  for (const [key, type] of [["llama.vocab_size", "u32"], ["tokenizer.ggml.bos_token_id", "i32"]] as const) {
    for (const value of [-1, 301, 2 ** 30]) {
      yield [`${key} = ${value}`, gguf({ ...metadata, [key]: { type, value } }, tensors)];
    }
  }
  const scaling = "llama.rope.scaling.factor";
  for (const value of [-1, NaN, Infinity]) {
    yield [`${scaling} = ${value}`, gguf({ ...metadata, [scaling]: { type: "f32", value } }, tensors)];
  }
  yield ["a key twice", gguf([...Object.entries(metadata), ["llama.block_count", { type: "u32", value: 1 }]], tensors)];
  yield ["a layer too many", gguf({ ...metadata, "llama.block_count": { type: "u32", value: 2 } }, tensors)];
  yield ["rotary factors of zero", gguf(metadata, [...tensors, { name: "rope_freqs.weight", dims: [16], type: 0 }])];
  yield ["rotary factors too few", gguf(metadata, [...tensors, { name: "rope_freqs.weight", dims: [8], type: 0 }])];
  yield ["a name too long", gguf(metadata, [...tensors, { name: "x".repeat(65), dims: [8], type: 0 }])];
  yield ["a bias", gguf(metadata, [...tensors, { name: "blk.0.attn_q.bias", dims: [64], type: 0 }])];
}

Deno.test("a sound small GGUF opens, and so does the same model from a folder", () =>
  inFolder(async (folder) => {
    await Deno.writeFile(join(folder, "m.gguf"), gguf(ggufMetadata(), ggufTensors()));
    await open(join(folder, "m.gguf"));
    await Deno.writeTextFile(join(folder, "config.json"), JSON.stringify(hfConfig()));
    await Deno.writeTextFile(join(folder, "tokenizer.json"), JSON.stringify(bundledTokenizer()));
    await Deno.writeFile(join(folder, "model.safetensors"), await hfWeights());
    await open(folder);
  }));

Deno.test("damaged GGUF files end in a typed sentence", () =>
  inFolder(async (folder) => {
    const path = join(folder, "damaged.gguf");
    async function* cases(): AsyncGenerator<[string, string]> {
      for (const [what, bytes] of damagedGguf()) {
        await Deno.writeFile(path, bytes);
        yield [what, path];
      }
    }
    const count = await refuses(cases());
    assert(count >= 200, `only ${count} corruptions`);
  }));

function* damagedFolder(
  weights: Uint8Array<ArrayBuffer>,
): Generator<[string, Record<string, Uint8Array | string | undefined>]> {
  const config = hfConfig();
  const length = Number(new DataView(weights.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(weights.subarray(8, 8 + length)));
  const withHeader = (value: unknown): Uint8Array => {
    const text = new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value));
    const out = new Uint8Array(8 + text.length + weights.length - 8 - length);
    new DataView(out.buffer).setBigUint64(0, BigInt(text.length), true);
    out.set(text, 8);
    out.set(weights.subarray(8 + length), 8 + text.length);
    return out;
  };
  for (const [i, bytes] of truncations(weights, 40, 2).entries()) {
    yield [`weights cut ${i} to ${bytes.length}`, { "model.safetensors": bytes }];
  }
  for (const claim of [0n, 1n, 2n ** 63n, 2n ** 32n, BigInt(weights.length)]) {
    const bytes = weights.slice();
    new DataView(bytes.buffer).setBigUint64(0, claim, true);
    yield [`header of ${claim} bytes`, { "model.safetensors": bytes }];
  }
  for (const text of ["[]", "3", "null", "{", '"x"']) {
    yield [`header ${text}`, { "model.safetensors": withHeader(text) }];
  }
  yield ["metadata of numbers", { "model.safetensors": withHeader({ ...header, __metadata__: { a: 1 } }) }];
  yield ["a byte too many", { "model.safetensors": new Uint8Array([...weights, 0]) }];
  const name = "model.norm.weight", entry = header[name], [begin, end] = entry.data_offsets;
  for (
    const [what, change] of [
      ["of an unknown type", { dtype: "F8" }],
      ["of type I8", { dtype: "I8" }],
      ["of type null", { dtype: null }],
      ["without a shape", { shape: null }],
      ["of a negative shape", { shape: [-64] }],
      ["of a broken shape", { shape: [1.5] }],
      ["of a huge shape", { shape: [2 ** 40, 2 ** 40] }],
      ["without offsets", { data_offsets: undefined }],
      ["with one offset", { data_offsets: [0] }],
      ["backwards", { data_offsets: [end, begin] }],
      ["at a negative offset", { data_offsets: [-256, 0] }],
      ["past the end", { data_offsets: [weights.length, weights.length + 256] }],
      ["over another", { data_offsets: [begin - 4, end - 4] }],
      ["of text", { data_offsets: ["a", "b"] }],
    ] as [string, Record<string, unknown>][]
  ) yield [`a tensor ${what}`, { "model.safetensors": withHeader({ ...header, [name]: { ...entry, ...change } }) }];
  for (const missing of Object.keys(header).filter((key) => key !== "__metadata__")) {
    yield [`${missing} renamed`, {
      "model.safetensors": withHeader(
        Object.fromEntries(Object.entries(header).map(([k, v]) => [k === missing ? "other" : k, v])),
      ),
    }];
  }
  for (const text of ["", "{", "[]", "null", "3", '"llama"', "{}"]) {
    yield [`config.json of ${text || "nothing"}`, { "config.json": text }];
  }
  const numeric = [
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "max_position_embeddings",
  ];
  for (const key of numeric) {
    for (const value of [-1, 0, 1.5, 1e30, "12", [], {}, true]) {
      yield [`${key} = ${JSON.stringify(value)}`, { "config.json": JSON.stringify({ ...config, [key]: value }) }];
    }
  }
  for (
    const [key, value] of [
      ["model_type", "mistral"],
      ["model_type", 3],
      ["attention_bias", true],
      ["attention_bias", "no"],
      ["mlp_bias", true],
      ["hidden_act", "gelu"],
      ["rms_norm_eps", -1],
      ["rms_norm_eps", "x"],
      ["rope_theta", 0],
      ["rope_theta", "x"],
      ["tie_word_embeddings", 1],
      ["tie_word_embeddings", false],
      ["rope_scaling", []],
      ["rope_scaling", { type: "yarn", factor: 2 }],
      ["rope_scaling", { type: "linear" }],
      ["rope_scaling", { type: "linear", factor: -1 }],
      ["rope_scaling", { rope_type: "llama3", factor: 8 }],
      ["rope_scaling", {
        rope_type: "llama3",
        factor: 8,
        low_freq_factor: 4,
        high_freq_factor: 1,
        original_max_position_embeddings: 8192,
      }],
      ["sliding_window", 4096],
      ["quantization_config", { bits: 4 }],
      ["partial_rotary_factor", 0.5],
      ["head_dim", 20],
      ["head_dim", 512],
      ["eos_token_id", [1, "x"]],
      ["bos_token_id", -1],
    ] as const
  ) yield [`${key} = ${JSON.stringify(value)}`, { "config.json": JSON.stringify({ ...config, [key]: value }) }];
  for (const text of ["", "{", "[]", "null", "{}", '{"model":3}', '{"model":{"type":"WordPiece","vocab":{}}}']) {
    yield [`tokenizer.json of ${text || "nothing"}`, { "tokenizer.json": text }];
  }
  for (
    const text of ["{", "{}", '{"weight_map":[]}', '{"weight_map":{"a":3}}', '{"weight_map":{"a":"../../etc/passwd"}}']
  ) {
    yield [`index of ${text}`, { "model.safetensors.index.json": text }];
  }
}

Deno.test("damaged folders end in a typed sentence", () =>
  inFolder(async (folder) => {
    const weights = await hfWeights();
    const sound: Record<string, Uint8Array | string> = {
      "config.json": JSON.stringify(hfConfig()),
      "tokenizer.json": JSON.stringify(bundledTokenizer()),
      "model.safetensors": weights,
    };
    const put = (name: string, content: Uint8Array | string): Promise<void> =>
      typeof content === "string"
        ? Deno.writeTextFile(join(folder, name), content)
        : Deno.writeFile(join(folder, name), content);
    for (const [name, content] of Object.entries(sound)) await put(name, content);
    async function* cases(): AsyncGenerator<[string, string]> {
      for (const [what, files] of damagedFolder(weights)) {
        for (const [name, content] of Object.entries(files)) await put(name, content!);
        yield [what, folder];
        for (const name of Object.keys(files)) {
          if (name in sound) await put(name, sound[name]!);
          else await Deno.remove(join(folder, name));
        }
      }
    }
    const count = await refuses(cases());
    assert(count >= 150, `only ${count} corruptions`);
  }));

/** Files that would take gigabytes if they were believed, or parsed without a look. */
function* greedyFiles(): Generator<[string, string, Uint8Array]> {
  const size = 16 * 2 ** 20;
  for (const part of ["[", "{},"]) {
    const bytes = new TextEncoder().encode(`{"a":[${part.repeat(size / part.length)}`);
    yield [`config.json of ${part}`, "config.json", bytes];
    yield [`tokenizer.json of ${part}`, "tokenizer.json", bytes];
    const weights = new Uint8Array(8 + bytes.length);
    new DataView(weights.buffer).setBigUint64(0, BigInt(bytes.length), true);
    weights.set(bytes, 8);
    yield [`a header of ${part}`, "model.safetensors", weights];
  }
  yield ["spaces", "config.json", new Uint8Array(49 * 2 ** 20).fill(32)];
  const count = gguf({ a: { type: "u8s", value: [] } }, []), claims = new Uint8Array(size);
  for (const claim of [2n ** 22n + 1n, 2n ** 40n, 2n ** 64n - 1n]) {
    claims.set(count);
    new DataView(claims.buffer).setBigUint64(24 + 8 + 1 + 4 + 4, claim, true);
    yield [`an array of ${claim}`, "x.gguf", claims];
  }
  const nested = { type: "arrays", value: [{ type: "arrays", value: [{ type: "arrays", value: [] }] }] } as const;
  yield ["arrays of arrays of arrays", "x.gguf", gguf({ nested }, [])];
}

Deno.test("files made to take memory are refused before they do", () =>
  inFolder(async (folder) => {
    const sound = { "config.json": JSON.stringify(hfConfig()), "tokenizer.json": JSON.stringify(bundledTokenizer()) };
    const restore = async (): Promise<void> => {
      for (const [name, text] of Object.entries(sound)) await Deno.writeTextFile(join(folder, name), text);
    };
    async function* cases(): AsyncGenerator<[string, string]> {
      await restore();
      for (const [what, name, bytes] of greedyFiles()) {
        await Deno.writeFile(join(folder, name), bytes);
        yield [what, name === "x.gguf" ? join(folder, name) : folder];
        if (name in sound) await restore();
      }
    }
    assert(await refuses(cases()) === 11);
  }));
