/** Models to look inside of, and small random ones in files of either kind beside the numbers that they hold. */
import { ExactAttention, ExactCache } from "../src/attention/exact_cache.ts";
import type { RopeScaling, WeightType } from "../src/core/model.ts";
import { Rng } from "../src/core/rng.ts";
import { llamaConfig } from "../src/files/llama_config.ts";
import { openModel } from "../src/files/model_files.ts";
import { type TensorData, writeSafetensors } from "../src/files/safetensors.ts";
import type { Gpu } from "../src/gpu/gpu.ts";
import { Decoder } from "../src/llama/decoder.ts";
import type { Engine } from "../src/llama/llama.ts";
import { loadWeights } from "../src/llama/weights.ts";
import type { LayerTensors, LlamaTensors } from "../src/ref/llama.ts";
import { createTokenizer, type Tokenizer } from "../src/text/tokenizer.ts";
import { gguf, ggufMetadata } from "./files/_files.ts";
import { randomWeights } from "./kernels/_weights.ts";

/** What `load` makes of a model, open to look into: dispose it to free everything, its caches included. */
export async function openEngine(gpu: Gpu, source: string | URL, context: number) {
  using files = await openModel(source);
  const config = llamaConfig(files), tokenizer = createTokenizer(files.tokenizer);
  using building = new DisposableStack();
  const weights = building.use(await loadWeights(gpu, files, config));
  const decoder = building.use(await Decoder.create(gpu, config, weights, context));
  const { frequencies } = weights;
  const attention = building.use(await ExactAttention.create(gpu, config, frequencies, context, decoder.chunk));
  const owned = building.move();
  const engine: Engine = {
    gpu,
    config,
    tokenizer,
    decoder,
    kind: { model: "", bits: "16,16", codebook: "", window: "", sinks: "" },
    disposed: false,
    encode: (prompt) => tokenizer.encode(prompt as string),
    f16Bytes: () => 0,
  };
  return {
    engine,
    frequencies,
    cache: () => owned.use(new ExactCache(attention, config.layers, context)),
    [Symbol.dispose]: () => owned.dispose(),
  };
}

/** Shape of a small model, and the types of its matrices by GGUF's names, F32 where not named. */
export interface Small {
  readonly hidden: number;
  readonly layers?: number;
  readonly qHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly ffn: number;
  readonly tied?: boolean;
  readonly context?: number;
  readonly ropeTheta?: number;
  readonly ropeScaling?: RopeScaling;
  readonly types?: Readonly<Record<string, WeightType>>;
}

/** A tensor of a small model, rows in Hugging Face's order. */
interface SmallTensor {
  readonly type: WeightType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
  readonly numbers: Float32Array;
}

/** A small random model: its tensors by GGUF's names, and as numbers for the f64 decoder. */
export interface SmallLlama extends Required<Omit<Small, "ropeScaling">> {
  readonly normEps: number;
  readonly ropeScaling: RopeScaling | undefined;
  readonly named: ReadonlyMap<string, SmallTensor>;
  readonly tensors: LlamaTensors;
  /** In radians a position, by Hugging Face's formulas. */
  readonly frequencies: Float64Array;
}

const TOKENIZER = Object.entries(ggufMetadata()).filter(([key]) => key.startsWith("tokenizer."));
const TOKENS = ggufMetadata()["tokenizer.ggml.tokens"]!.value as readonly string[];
/** Tokens of every small model: bytes, BOS 0, EOS 1, and words. */
export const VOCAB = TOKENS.length;

/** Names of a layer's tensors in `LayerTensors`, GGUF and Hugging Face. */
const NAMES = [
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

const TYPE_IDS: Readonly<Record<WeightType, number>> = {
  F32: 0,
  F16: 1,
  Q4_0: 2,
  Q8_0: 8,
  Q4_K: 12,
  Q6_K: 14,
  BF16: 30,
};

/** What each pair turns by, its wave stretched. */
function stretch(wave: number, scaling: RopeScaling | undefined): number {
  if (!scaling) return 1;
  if (scaling.type === "linear") return scaling.factor;
  const { factor, lowFreqFactor: low, highFreqFactor: high, originalContext: context } = scaling;
  if (wave > context / low) return factor;
  if (wave < context / high) return 1;
  const smooth = (context / wave - low) / (high - low);
  return 1 / ((1 - smooth) / factor + smooth);
}

/** Makes a small model of seeded weights: every product of numbers about 1 gives numbers about 1. */
export function randomLlama(small: Small, seed: number): SmallLlama {
  const { layers = 2, tied = false, context = 64, ropeTheta = 100, ropeScaling, types = {}, ...shape } = small;
  const { hidden, qHeads, kvHeads, headDim, ffn } = shape, rng = new Rng(seed), named = new Map<string, SmallTensor>();
  const matrix = (name: string, rows: number, cols: number): Float32Array => {
    const type = types[name.replace(/^blk\.\d+\./, "")] ?? "F32",
      gain = name === "token_embd" ? 1 : 1 / Math.sqrt(cols);
    const unit = Math.hypot(...randomWeights(type, 4, cols, 1).numbers) / Math.sqrt(4 * cols);
    const { file, numbers } = randomWeights(type, rows, cols, rng.u32(), gain / unit);
    named.set(name, { type, shape: [rows, cols], bytes: file, numbers });
    return named.get(name)!.numbers;
  };
  const norm = (name: string): Float32Array => {
    const numbers = Float32Array.from({ length: hidden }, () => 1 + 0.3 * rng.normal());
    named.set(name, { type: "F32", shape: [hidden], bytes: new Uint8Array(numbers.buffer), numbers });
    return numbers;
  };
  const embed = matrix("token_embd", VOCAB, hidden);
  const sizes: Record<string, [number, number]> = {
    q: [qHeads * headDim, hidden],
    k: [kvHeads * headDim, hidden],
    v: [kvHeads * headDim, hidden],
    o: [hidden, qHeads * headDim],
    gate: [ffn, hidden],
    up: [ffn, hidden],
    down: [hidden, ffn],
  };
  const stack = Array.from({ length: layers }, (_, i) =>
    Object.fromEntries(NAMES.map(([key, name]) => {
      const full = `blk.${i}.${name}`;
      return [key, sizes[key] ? matrix(full, ...sizes[key]) : norm(full)];
    })) as unknown as LayerTensors);
  const tensors = {
    embed,
    layers: stack,
    norm: norm("output_norm"),
    output: tied ? undefined : matrix("output", VOCAB, hidden),
  };
  const frequencies = Float64Array.from({ length: headDim / 2 }, (_, d) => {
    const theta = ropeTheta ** (-2 * d / headDim);
    return theta / stretch(2 * Math.PI / theta, ropeScaling);
  });
  return { ...shape, normEps: 0.01, layers, tied, context, ropeTheta, ropeScaling, types, named, tensors, frequencies };
}

/** Rows of Q or K as llama.cpp's converter puts them: row `i` of a head's halves beside each other. */
function interleave(bytes: Uint8Array, heads: number, headDim: number): Uint8Array {
  const row = bytes.length / (heads * headDim), out = new Uint8Array(bytes.length);
  for (let h = 0; h < heads; h++) {
    for (let half = 0; half < 2; half++) {
      for (let i = 0; i < headDim / 2; i++) {
        const from = (h * headDim + half * headDim / 2 + i) * row;
        out.set(bytes.subarray(from, from + row), (h * headDim + 2 * i + half) * row);
      }
    }
  }
  return out;
}

/** Writes a small model as a GGUF: a `llama3` scaling as factors in `rope_freqs`, as llama.cpp's converter does. */
export async function writeGguf(path: string, model: SmallLlama): Promise<void> {
  const { headDim, qHeads, kvHeads, ropeTheta, ropeScaling } = model;
  const tensors = [...model.named].map(([name, { type, shape, bytes }]) => {
    const heads = name.endsWith("attn_q") ? qHeads : name.endsWith("attn_k") ? kvHeads : 0;
    return { name: `${name}.weight`, type, shape, bytes: heads ? interleave(bytes, heads, headDim) : bytes };
  });
  if (ropeScaling?.type === "llama3") {
    const factors = Float32Array.from(
      { length: headDim / 2 },
      (_, d) => stretch(2 * Math.PI * ropeTheta ** (2 * d / headDim), ropeScaling),
    );
    const bytes = new Uint8Array(factors.buffer);
    tensors.push({ name: "rope_freqs.weight", type: "F32", shape: [headDim / 2], bytes });
  }
  let size = 0;
  const entries = tensors.map(({ name, type, shape, bytes }) => {
    const offset = size;
    size = Math.ceil((size + bytes.length) / 32) * 32;
    return { name, dims: shape.toReversed(), type: TYPE_IDS[type], offset };
  });
  const u32 = (value: number) => ({ type: "u32", value }) as const,
    f32 = (value: number) => ({ type: "f32", value }) as const;
  const file = gguf(
    {
      "general.architecture": { type: "string", value: "llama" },
      "llama.block_count": u32(model.layers),
      "llama.context_length": u32(model.context),
      "llama.embedding_length": u32(model.hidden),
      "llama.feed_forward_length": u32(model.ffn),
      "llama.attention.head_count": u32(qHeads),
      "llama.attention.head_count_kv": u32(kvHeads),
      "llama.attention.key_length": u32(headDim),
      "llama.attention.value_length": u32(headDim),
      "llama.rope.dimension_count": u32(headDim),
      "llama.attention.layer_norm_rms_epsilon": f32(model.normEps),
      "llama.rope.freq_base": f32(ropeTheta),
      ...ropeScaling?.type === "linear" && {
        "llama.rope.scaling.type": { type: "string", value: "linear" },
        "llama.rope.scaling.factor": f32(ropeScaling.factor),
      } as const,
      ...Object.fromEntries(TOKENIZER),
      "tokenizer.ggml.add_bos_token": { type: "bool", value: 1 },
    },
    entries,
    { data: size },
  );
  tensors.forEach(({ bytes }, i) => file.set(bytes, file.length - size + entries[i]!.offset));
  await Deno.writeFile(path, file);
}

/** Writes a small model as a Hugging Face folder, its weights in `shards` files. */
export async function writeFolder(folder: string, model: SmallLlama, { shards = 1 } = {}): Promise<void> {
  const { ropeScaling: scaling } = model,
    write = (name: string, value: unknown): Promise<void> =>
      Deno.writeTextFile(`${folder}/${name}`, JSON.stringify(value));
  await Deno.mkdir(folder, { recursive: true });
  await write("config.json", {
    model_type: "llama",
    vocab_size: VOCAB,
    hidden_size: model.hidden,
    num_hidden_layers: model.layers,
    num_attention_heads: model.qHeads,
    num_key_value_heads: model.kvHeads,
    head_dim: model.headDim,
    intermediate_size: model.ffn,
    max_position_embeddings: model.context,
    rms_norm_eps: model.normEps,
    rope_theta: model.ropeTheta,
    rope_scaling: scaling?.type === "llama3"
      ? {
        rope_type: "llama3",
        factor: scaling.factor,
        low_freq_factor: scaling.lowFreqFactor,
        high_freq_factor: scaling.highFreqFactor,
        original_max_position_embeddings: scaling.originalContext,
      }
      : scaling ?? null,
    tie_word_embeddings: model.tied,
    bos_token_id: 0,
    eos_token_id: 1,
  });
  await write("tokenizer.json", {
    model: { type: "BPE", vocab: Object.fromEntries(TOKENS.map((token, id) => [token, id])), merges: [] },
    added_tokens: [0, 1].map((id) => ({ id, content: TOKENS[id], special: true, normalized: false })),
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: false },
    decoder: { type: "ByteLevel" },
  });
  await write("tokenizer_config.json", { bos_token: TOKENS[0], eos_token: TOKENS[1], add_bos_token: true });
  const files = Array.from({ length: shards }, (): Record<string, TensorData> => ({})),
    map: Record<string, string> = {};
  const file = (i: number): string => shards === 1 ? "model.safetensors" : `model-${i + 1}-of-${shards}.safetensors`;
  [...model.named].forEach(([name, { type, shape, bytes }], i) => {
    const full = `${huggingFaceName(name)}.weight`;
    files[i % shards]![full] = { dtype: type as "F32" | "F16" | "BF16", shape, data: bytes };
    map[full] = file(i % shards);
  });
  if (shards > 1) await write("model.safetensors.index.json", { weight_map: map });
  for (const [i, tensors] of files.entries()) await writeSafetensors(`${folder}/${file(i)}`, tensors);
}

function huggingFaceName(name: string): string {
  const [, layer, key] = /^blk\.(\d+)\.(.*)$/.exec(name) ?? [];
  if (layer) return `model.layers.${layer}.${NAMES.find(([, gguf]) => gguf === key)![2]}`;
  return { token_embd: "model.embed_tokens", output_norm: "model.norm", output: "lm_head" }[name]!;
}

/** A bias that bans every token but small letters: a text is then encoded to the tokens that it was made of. */
export function lettersOf(tokenizer: Tokenizer): Record<number, number> {
  const letters = new Set(tokenizer.encode("abcdefghijklmnopqrstuvwxyz", { bos: false }));
  return Object.fromEntries(Array.from({ length: VOCAB }, (_, id) => [id, letters.has(id) ? 0 : -Infinity]));
}
