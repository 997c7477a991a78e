/** Small models to test with: GGUF and Hugging Face files of any shape and weight type, and the numbers they hold. */
import { toF16 } from "../src/core/f16.ts";
import { BLOCKS, type LlamaConfig, type WeightType } from "../src/core/model.ts";
import { Rng } from "../src/core/rng.ts";
import { ropeFrequencies } from "../src/core/rope.ts";
import { type SafetensorsType, writeSafetensors } from "../src/files/safetensors.ts";
import { dequantize } from "../src/ref/dequantize.ts";
import type { LayerTensors, LlamaTensors } from "../src/ref/llama.ts";

/** A metadata value: plain ones become u32, i32, f32, bool, string or arrays of these; `as` names another type. */
export type Meta = string | number | boolean | readonly Meta[] | { readonly as: number; readonly value: unknown };

/** A tensor to write. The last three are for files that lie. */
export interface StoredTensor {
  readonly type: WeightType;
  /** Outermost first. */
  readonly shape: readonly number[];
  readonly data: Uint8Array;
  readonly offset?: number | bigint;
  readonly typeId?: number;
  readonly dims?: readonly (number | bigint)[];
}

/** What a GGUF's header may lie about. */
export interface GgufLies {
  readonly magic?: number;
  readonly version?: number;
  readonly tensorCount?: number | bigint;
  readonly keyCount?: number | bigint;
}

const TYPE_IDS = { F32: 0, F16: 1, Q4_0: 2, Q8_0: 8, Q4_K: 12, Q6_K: 14, BF16: 30 };

/** Bytes that grow. */
class Writer {
  #bytes = new Uint8Array(4096);
  length = 0;

  #grow(count: number): DataView {
    if (this.length + count > this.#bytes.length) {
      const larger = new Uint8Array(2 * (this.length + count));
      larger.set(this.#bytes);
      this.#bytes = larger;
    }
    const view = new DataView(this.#bytes.buffer, this.length);
    this.length += count;
    return view;
  }

  u32(value: number): void {
    this.#grow(4).setUint32(0, value, true);
  }

  u64(value: number | bigint): void {
    this.#grow(8).setBigUint64(0, BigInt(value), true);
  }

  bytes(data: Uint8Array): void {
    this.#grow(data.length);
    this.#bytes.set(data, this.length - data.length);
  }

  string(text: string): void {
    const data = new TextEncoder().encode(text);
    this.u64(data.length);
    this.bytes(data);
  }

  align(to: number): void {
    this.#grow((to - this.length % to) % to);
  }

  /** A value's type and bytes. */
  meta(value: Meta): void {
    const type = typeOf(value);
    this.u32(type);
    this.#value(type, isTyped(value) ? value.value : value);
  }

  #value(type: number, value: unknown): void {
    const n = value as number;
    if (type <= 1 || type === 7) this.#grow(1).setUint8(0, Number(n));
    else if (type <= 3) this.#grow(2).setUint16(0, n, true);
    else if (type <= 5) this.u32(n);
    else if (type === 6) this.#grow(4).setFloat32(0, n, true);
    else if (type === 8) this.string(value as string);
    else if (type === 10) this.u64(n);
    else if (type === 11) this.#grow(8).setBigInt64(0, BigInt(n), true);
    else if (type === 12) this.#grow(8).setFloat64(0, n, true);
    else if (type === 9) {
      const items = value as readonly Meta[];
      const float = items.some((item) => typeof item === "number" && !Number.isInteger(item));
      const of = float ? 6 : items.length ? Math.max(...items.map(typeOf)) : 4;
      this.u32(of);
      this.u64(items.length);
      for (const item of items) this.#value(of, isTyped(item) ? item.value : item);
    }
  }

  take(): Uint8Array<ArrayBuffer> {
    return this.#bytes.slice(0, this.length);
  }
}

function isTyped(value: Meta): value is { as: number; value: unknown } {
  return typeof value === "object" && "as" in value;
}

function typeOf(value: Meta): number {
  if (isTyped(value)) return value.as;
  if (typeof value === "string") return 8;
  if (typeof value === "boolean") return 7;
  if (typeof value === "object") return 9;
  return !Number.isInteger(value) ? 6 : value < 0 ? 5 : 4;
}

/** A GGUF file's bytes. Keys and tensors are pairs, so that a test can repeat one. */
export function ggufBytes(
  metadata: readonly (readonly [string, Meta])[],
  tensors: readonly (readonly [string, StoredTensor])[],
  { magic = 0x46554747, version = 3, tensorCount = tensors.length, keyCount = metadata.length }: GgufLies = {},
): Uint8Array<ArrayBuffer> {
  const out = new Writer(), told = new Map(metadata).get("general.alignment");
  const alignment = typeof told === "number" && told >= 8 && told % 8 === 0 ? told : 32;
  out.u32(magic);
  out.u32(version);
  out.u64(tensorCount);
  out.u64(keyCount);
  for (const [key, value] of metadata) {
    out.string(key);
    out.meta(value);
  }
  let end = 0;
  for (const [name, { type, shape, data, offset, typeId = TYPE_IDS[type], dims = shape.toReversed() }] of tensors) {
    out.string(name);
    out.u32(dims.length);
    for (const dim of dims) out.u64(dim);
    out.u32(typeId);
    end = Math.ceil(end / alignment) * alignment;
    out.u64(offset ?? end);
    end += data.length;
  }
  for (const [, { data }] of tensors) {
    out.align(alignment);
    out.bytes(data);
  }
  return out.take();
}

/** Writes a GGUF file. */
export async function writeGguf(
  path: string,
  metadata: Readonly<Record<string, Meta>>,
  tensors: Readonly<Record<string, StoredTensor>>,
): Promise<void> {
  await Deno.writeFile(path, ggufBytes(Object.entries(metadata), Object.entries(tensors)));
}

/** Writes a folder with `config.json`, weights in `shards` files, and a tokenizer of bytes. */
export async function writeHfModel(
  folder: string,
  config: object,
  tensors: Readonly<Record<string, StoredTensor>>,
  { shards = 1, index = shards > 1 }: { shards?: number; index?: boolean } = {},
): Promise<void> {
  const writeJson = (name: string, value: object) => Deno.writeTextFile(`${folder}/${name}`, JSON.stringify(value));
  const places: Record<string, string> = {}, entries = Object.entries(tensors);
  await Deno.mkdir(folder, { recursive: true });
  for (let s = 0; s < shards; s++) {
    const file = shards === 1 ? "model.safetensors" : `model-${s + 1}-of-${shards}.safetensors`;
    const part = entries.filter((_, i) => i % shards === s);
    for (const [name] of part) places[name] = file;
    await writeSafetensors(
      `${folder}/${file}`,
      Object.fromEntries(part.map(([name, { type, shape, data }]) => {
        return [name, { dtype: type as SafetensorsType, shape, data }];
      })),
      { format: "pt" },
    );
  }
  if (index) await writeJson("model.safetensors.index.json", { metadata: {}, weight_map: places });
  await writeJson("config.json", config);
  const vocab = byteTokens((config as { vocab_size: number }).vocab_size);
  const special = vocab.slice(256).map((content, i) => ({ id: 256 + i, content, special: true, normalized: false }));
  await writeJson("tokenizer.json", {
    added_tokens: special,
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: false },
    post_processor: null,
    decoder: { type: "ByteLevel" },
    model: { type: "BPE", vocab: Object.fromEntries(vocab.map((token, id) => [token, id])), merges: [] },
  });
  await writeJson("tokenizer_config.json", { bos_token: "<s>", eos_token: "</s>", add_bos_token: true });
}

/** A token for every byte, in GPT-2's letters, then `<s>`, `</s>` and fillers. */
function byteTokens(count: number): string[] {
  const plain = (b: number) => (b > 32 && b < 127) || (b > 160 && b < 173) || b > 173;
  let other = 256;
  const bytes = Array.from({ length: 256 }, (_, b) => String.fromCharCode(plain(b) ? b : other++));
  return [...bytes, "<s>", "</s>", ...Array.from({ length: Math.max(0, count - 258) }, (_, i) => `<${i}>`)];
}

/** Weights of a type that are close to `values`. Simple searches: good enough, and exact in layout. */
export function quantize(type: WeightType, values: Float32Array): Uint8Array<ArrayBuffer> {
  const { weights, bytes } = BLOCKS[type], file = new Uint8Array(values.length / weights * bytes);
  for (let b = 0; b < values.length / weights; b++) {
    const view = new DataView(file.buffer, b * bytes, bytes);
    QUANTIZE[type](values.subarray(b * weights, (b + 1) * weights), view);
  }
  return file;
}

/** The element of the largest size, with its sign. */
function peak(values: Float32Array): number {
  return values.reduce((most, x) => Math.abs(x) > Math.abs(most) ? x : most, 0);
}

function clamp(x: number, least: number, most: number): number {
  return Math.max(least, Math.min(most, Math.round(x) || 0));
}

/** Stores `scale` in half precision and gives back what was stored. */
function putHalf(view: DataView, at: number, scale: number): number {
  view.setUint16(at, toF16(scale), true);
  return view.getFloat16(at, true);
}

const QUANTIZE: Readonly<Record<WeightType, (x: Float32Array, block: DataView) => void>> = {
  F32: ([x], block) => block.setFloat32(0, x!, true),
  F16: ([x], block) => block.setUint16(0, toF16(x!), true),
  BF16: ([x], block) => {
    const bits = new Uint32Array(Float32Array.of(x!).buffer)[0]!;
    block.setUint16(0, (bits + 0x7fff + (bits >>> 16 & 1)) >>> 16, true);
  },
  Q8_0: (x, block) => {
    const d = putHalf(block, 0, Math.abs(peak(x)) / 127);
    x.forEach((v, i) => block.setInt8(2 + i, clamp(v / d, -127, 127)));
  },
  Q4_0: (x, block) => {
    const d = putHalf(block, 0, peak(x) / -8), q = Array.from(x, (v) => clamp(v / d, -8, 7) + 8);
    for (let i = 0; i < 16; i++) block.setUint8(2 + i, q[i]! | q[16 + i]! << 4);
  },
  Q4_K: (x, block) => {
    const subs = Array.from({ length: 8 }, (_, s) => x.subarray(32 * s, 32 * s + 32));
    const mins = subs.map((sub) => Math.max(0, -Math.min(...sub)));
    const scales = subs.map((sub, s) => Math.max(0, Math.max(...sub) + mins[s]!) / 15);
    const d = putHalf(block, 0, Math.max(...scales) / 63), dmin = putHalf(block, 2, Math.max(...mins) / 63);
    const byte = (at: number, bits: number) => block.setUint8(at, block.getUint8(at) | bits);
    subs.forEach((sub, s) => {
      const scale = clamp(scales[s]! / d, 0, 63), min = clamp(mins[s]! / dmin, 0, 63);
      if (s < 4) {
        byte(4 + s, scale);
        byte(8 + s, min);
      } else {
        byte(8 + s, scale & 15 | (min & 15) << 4);
        byte(s, scale >> 4 << 6);
        byte(4 + s, min >> 4 << 6);
      }
      sub.forEach((v, i) => {
        const q = clamp((v + dmin * min) / (d * scale), 0, 15);
        byte(16 + 32 * (s >> 1) + i, q << 4 * (s & 1));
      });
    });
  },
  Q6_K: (x, block) => {
    const subs = Array.from({ length: 16 }, (_, s) => x.subarray(16 * s, 16 * s + 16));
    const scales = subs.map((sub) => peak(sub) / -32), d = putHalf(block, 208, peak(Float32Array.from(scales)) / -128);
    subs.forEach((sub, s) => {
      const scale = clamp(scales[s]! / d, -128, 127);
      block.setInt8(192 + s, scale);
      sub.forEach((v, j) => {
        const q = clamp(v / (d * scale), -32, 31) + 32, i = 16 * s + j;
        const half = i >> 7, quarter = i >> 5 & 3, low = 64 * half + 32 * (quarter & 1) + (i & 31);
        block.setUint8(low, block.getUint8(low) | (q & 15) << 4 * (quarter >> 1));
        const high = 128 + 32 * half + (i & 31);
        block.setUint8(high, block.getUint8(high) | q >> 4 << 2 * quarter);
      });
    });
  },
};

/** A small LLaMA with random weights. */
export interface RandomLlama {
  /** As its Hugging Face files give it; a GGUF's has `interleavedRope` instead. */
  readonly config: LlamaConfig;
  /** The numbers that both kinds of files hold, as the f64 decoder takes them. */
  readonly tensors: LlamaTensors;
  /** What its files are made of, for tests that spoil them. */
  ggufParts(): { metadata: Record<string, Meta>; tensors: Record<string, StoredTensor> };
  hfParts(): { config: Record<string, unknown>; tensors: Record<string, StoredTensor> };
  writeGguf(path: string): Promise<void>;
  /** Weights must be of types F32, F16 or BF16. */
  writeHf(folder: string, options?: { shards?: number; index?: boolean }): Promise<void>;
}

/** The parts of a layer with their names in GGUF and Hugging Face files. */
const LAYER = [
  ["attnNorm", "attn_norm", "input_layernorm"],
  ["q", "attn_q", "self_attn.q_proj"],
  ["k", "attn_k", "self_attn.k_proj"],
  ["v", "attn_v", "self_attn.v_proj"],
  ["o", "attn_output", "self_attn.o_proj"],
  ["ffnNorm", "ffn_norm", "post_attention_layernorm"],
  ["gate", "ffn_gate", "mlp.gate_proj"],
  ["up", "ffn_up", "mlp.up_proj"],
  ["down", "ffn_down", "mlp.down_proj"],
] as const;

const SMALL: LlamaConfig = {
  vocab: 320,
  hidden: 64,
  layers: 2,
  qHeads: 2,
  kvHeads: 1,
  headDim: 32,
  ffn: 96,
  context: 512,
  normEps: 2 ** -17, // the same number in f32, as GGUF has it
  ropeTheta: 10_000,
  ropeScaling: null,
  tiedEmbeddings: true,
  bos: 256,
  eos: [257],
  interleavedRope: false,
};

/**
 * A LLaMA of `shape`, small where it says nothing, whose matrices are of one type or of a type by part ("q", "embed", ...)
 * and whose norms are F32. The vocabulary must have 258 tokens or more.
 */
export function randomLlama(
  shape: Partial<LlamaConfig> = {},
  seed = 1,
  types: WeightType | ((part: string) => WeightType) = "F32",
): RandomLlama {
  const config = { ...SMALL, ...shape }, rng = new Rng(seed);
  const { vocab, hidden, qHeads, kvHeads, headDim, ffn, ropeScaling: scaling } = config;
  const stored: Record<string, StoredTensor> = {}, names: [key: string, gguf: string, hf: string][] = [];
  const make = (key: string, gguf: string, hf: string, rows: number, cols?: number): Float32Array => {
    const type = cols === undefined ? "F32" : typeof types === "string" ? types : types(key.split(".").at(-1)!);
    // Rows keep a vector's length, so that activations stay near 1 through any number of layers.
    const size = cols === undefined ? rows : rows * cols, scale = cols === undefined ? 0.1 : 1 / Math.sqrt(cols);
    const values = Float32Array.from({ length: size }, () => rng.normal() * scale + (cols === undefined ? 1 : 0));
    const data = quantize(type, values);
    stored[key] = { type, shape: cols === undefined ? [rows] : [rows, cols], data };
    names.push([key, `${gguf}.weight`, `${hf}.weight`]);
    return dequantize(type, data, size);
  };
  const embed = make("embed", "token_embd", "model.embed_tokens", vocab, hidden);
  const q = qHeads * headDim, kv = kvHeads * headDim;
  const sizes: Record<keyof LayerTensors, [number, number?]> = {
    attnNorm: [hidden],
    q: [q, hidden],
    k: [kv, hidden],
    v: [kv, hidden],
    o: [hidden, q],
    ffnNorm: [hidden],
    gate: [ffn, hidden],
    up: [ffn, hidden],
    down: [hidden, ffn],
  };
  const layers = Array.from({ length: config.layers }, (_, l) =>
    Object.fromEntries(
      LAYER.map(([part, gguf, hf]) => [
        part,
        make(`${l}.${part}`, `blk.${l}.${gguf}`, `model.layers.${l}.${hf}`, ...sizes[part]),
      ]),
    ) as unknown as LayerTensors);
  const norm = make("norm", "output_norm", "model.norm", hidden);
  const output = config.tiedEmbeddings ? undefined : make("output", "output", "lm_head", vocab, hidden);

  const ggufParts: RandomLlama["ggufParts"] = () => {
    const tensors = Object.fromEntries(names.map(([key, gguf]) => {
      return [gguf, /[qk]$/.test(key) ? interleaved(stored[key]!, headDim) : stored[key]!];
    }));
    if (scaling?.type === "llama3") {
      // What the converter stores: the frequencies' quotients.
      const scaled = ropeFrequencies(config), plain = ropeFrequencies({ ...config, ropeScaling: null });
      const data = quantize("F32", Float32Array.from(plain, (theta, d) => theta / scaled[d]!));
      tensors["rope_freqs.weight"] = { type: "F32", shape: [headDim / 2], data };
    }
    const tokens = byteTokens(vocab);
    const linear: Record<string, Meta> = scaling?.type === "linear"
      ? { "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": { as: 6, value: scaling.factor } }
      : {};
    const metadata: Record<string, Meta> = {
      "general.architecture": "llama",
      "llama.vocab_size": vocab,
      "llama.context_length": config.context,
      "llama.embedding_length": hidden,
      "llama.block_count": config.layers,
      "llama.feed_forward_length": ffn,
      "llama.attention.head_count": qHeads,
      "llama.attention.head_count_kv": kvHeads,
      "llama.attention.key_length": headDim,
      "llama.attention.value_length": headDim,
      "llama.rope.dimension_count": headDim,
      "llama.rope.freq_base": { as: 6, value: config.ropeTheta },
      "llama.attention.layer_norm_rms_epsilon": { as: 6, value: config.normEps },
      ...linear,
      "tokenizer.ggml.model": "gpt2",
      "tokenizer.ggml.pre": "gpt-2",
      "tokenizer.ggml.tokens": tokens,
      "tokenizer.ggml.token_type": tokens.map((_, id) => id < 256 ? 1 : 3),
      "tokenizer.ggml.merges": [],
      "tokenizer.ggml.bos_token_id": config.bos!,
      "tokenizer.ggml.eos_token_id": config.eos[0]!,
      "tokenizer.ggml.add_bos_token": true,
    };
    return { metadata, tensors };
  };
  const hfParts: RandomLlama["hfParts"] = () => ({
    config: {
      architectures: ["LlamaForCausalLM"],
      model_type: "llama",
      vocab_size: vocab,
      hidden_size: hidden,
      num_hidden_layers: config.layers,
      num_attention_heads: qHeads,
      num_key_value_heads: kvHeads,
      head_dim: headDim,
      intermediate_size: ffn,
      max_position_embeddings: config.context,
      rms_norm_eps: config.normEps,
      rope_theta: config.ropeTheta,
      rope_scaling: scaling?.type === "llama3"
        ? {
          rope_type: "llama3",
          factor: scaling.factor,
          low_freq_factor: scaling.lowFreqFactor,
          high_freq_factor: scaling.highFreqFactor,
          original_max_position_embeddings: scaling.originalContext,
        }
        : scaling,
      hidden_act: "silu",
      attention_bias: false,
      mlp_bias: false,
      tie_word_embeddings: config.tiedEmbeddings,
      bos_token_id: config.bos,
      eos_token_id: config.eos,
    },
    tensors: Object.fromEntries(names.map(([key, , hf]) => [hf, stored[key]!])),
  });
  return {
    config,
    tensors: { embed, layers, norm, output },
    ggufParts,
    hfParts,
    writeGguf: async (path) => {
      const { metadata, tensors } = ggufParts();
      await writeGguf(path, metadata, tensors);
    },
    writeHf: async (folder, options) => {
      const { config, tensors } = hfParts();
      await writeHfModel(folder, config, tensors, options);
    },
  };
}

/** Rows of rotary pairs side by side, as llama.cpp's converter permutes Q and K: row `half * P + d` goes to `2 d + half`. */
function interleaved({ type, shape, data }: StoredTensor, headDim: number): StoredTensor {
  const rowBytes = data.length / shape[0]!, pairs = headDim / 2, out = new Uint8Array(data.length);
  for (let row = 0; row < shape[0]!; row++) {
    const inHead = row % headDim, to = row - inHead + 2 * (inHead % pairs) + Math.floor(inHead / pairs);
    out.set(data.subarray(row * rowBytes, (row + 1) * rowBytes), to * rowBytes);
  }
  return { type, shape, data: out };
}
