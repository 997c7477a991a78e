/** Small model files, whole and damaged. */
import { dirname, fromFileUrl, join } from "@std/path";
import { Rng } from "../../src/core/rng.ts";
import { type TensorData, writeSafetensors } from "../../src/files/safetensors.ts";

/** Types of one value by GGUF's numbers, in their order. */
const SCALARS = [
  "u8",
  "i8",
  "u16",
  "i16",
  "u32",
  "i32",
  "f32",
  "bool",
  "string",
  "array",
  "u64",
  "i64",
  "f64",
] as const;
type Scalar = Exclude<typeof SCALARS[number], "array" | "string">;

/** A metadata value with its GGUF type; arrays are plurals. */
export type Typed =
  | { readonly type: Scalar; readonly value: number | bigint }
  | { readonly type: "string"; readonly value: string }
  | { readonly type: `${Scalar}s`; readonly value: readonly (number | bigint)[] }
  | { readonly type: "u8s"; readonly value: Uint8Array }
  | { readonly type: "strings"; readonly value: readonly string[] }
  | { readonly type: "arrays"; readonly value: readonly Typed[] };

/** A tensor to write: `dims` innermost first, as the file has them. */
export interface GgufEntry {
  readonly name: string;
  readonly dims: readonly (number | bigint)[];
  readonly type: number;
  readonly offset?: number | bigint;
}

/** Metadata to write: pairs where a key is to come twice. */
export type Metadata = Readonly<Record<string, Typed>> | readonly (readonly [string, Typed])[];

/** Bytes of a GGUF file; tensors are F32 zeros one after the other unless an entry says otherwise. */
export function gguf(
  metadata: Metadata,
  tensors: readonly GgufEntry[],
  claims: { magic?: number; version?: number; tensors?: number | bigint; keys?: number | bigint; data?: number } = {},
): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [], keys = Array.isArray(metadata) ? metadata : Object.entries(metadata);
  const bytes = (size: number, set: (view: DataView) => void): void => {
    const view = new DataView(new ArrayBuffer(size));
    set(view);
    parts.push(new Uint8Array(view.buffer));
  };
  const u32 = (v: number): void => bytes(4, (d) => d.setUint32(0, v, true));
  const u64 = (v: number | bigint): void => bytes(8, (d) => d.setBigUint64(0, BigInt.asUintN(64, BigInt(v)), true));
  const string = (v: string): void => {
    const encoded = new TextEncoder().encode(v);
    u64(encoded.length);
    parts.push(encoded);
  };
  const scalar = (type: string, v: number | bigint): void => {
    if (type.endsWith("64") && type !== "f64") u64(v);
    else if (type === "f64") bytes(8, (d) => d.setFloat64(0, Number(v), true));
    else if (type === "f32") bytes(4, (d) => d.setFloat32(0, Number(v), true));
    else if (type.endsWith("32")) u32(Number(v));
    else if (type.endsWith("16")) bytes(2, (d) => d.setUint16(0, Number(v), true));
    else bytes(1, (d) => d.setUint8(0, Number(v)));
  };
  const id = (type: string): number => SCALARS.indexOf(type as Scalar);
  const write = ({ type, value }: Typed): void => {
    if (type === "string") string(value);
    else if (typeof value !== "object") scalar(type, value);
    else {
      u32(id(type.slice(0, -1)));
      u64(value.length);
      if (value instanceof Uint8Array) return void parts.push(value);
      for (const v of value) {
        if (typeof v === "string") string(v);
        else if (typeof v === "object") write(v);
        else scalar(type.slice(0, -1), v);
      }
    }
  };
  u32(claims.magic ?? 0x46554747);
  u32(claims.version ?? 3);
  u64(claims.tensors ?? tensors.length);
  u64(claims.keys ?? keys.length);
  for (const [key, typed] of keys) {
    string(key);
    u32(id(typeof typed.value === "object" ? "array" : typed.type));
    write(typed);
  }
  let end = 0;
  for (const { name, dims, type, offset } of tensors) {
    string(name);
    u32(dims.length);
    dims.forEach(u64);
    u32(type);
    u64(offset ?? end);
    end = Math.ceil((end + 4 * Number(dims.reduce((a, b) => BigInt(a) * BigInt(b), 1n))) / 32) * 32;
  }
  const header = parts.reduce((sum, part) => sum + part.length, 0);
  const out = new Uint8Array(Math.ceil(header / 32) * 32 + (claims.data ?? Math.min(end, 2 ** 20)));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** Width, heads and so on of the small model that is damaged. */
const HIDDEN = 64, FFN = 64, VOCAB = 300, HEADS = 2;

/** The 256 byte tokens of a byte-level vocabulary, two specials, and words. */
function vocabulary(): string[] {
  const printable = (b: number): boolean => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let extra = 0;
  const bytes = Array.from({ length: 256 }, (_, b) => String.fromCharCode(printable(b) ? b : 256 + extra++));
  return ["<s>", "</s>", ...bytes, ...Array.from({ length: VOCAB - 258 }, (_, i) => `word${i}`)];
}

/** Metadata of the small model as GGUF has it. */
export function ggufMetadata(): Record<string, Typed> {
  return {
    "general.architecture": { type: "string", value: "llama" },
    "llama.block_count": { type: "u32", value: 1 },
    "llama.context_length": { type: "u32", value: 128 },
    "llama.embedding_length": { type: "u32", value: HIDDEN },
    "llama.feed_forward_length": { type: "u32", value: FFN },
    "llama.attention.head_count": { type: "u32", value: HEADS },
    "llama.attention.head_count_kv": { type: "u32", value: HEADS },
    "llama.attention.layer_norm_rms_epsilon": { type: "f32", value: 1e-5 },
    "llama.rope.freq_base": { type: "f32", value: 10_000 },
    "tokenizer.ggml.model": { type: "string", value: "gpt2" },
    "tokenizer.ggml.pre": { type: "string", value: "gpt-2" },
    "tokenizer.ggml.tokens": { type: "strings", value: vocabulary() },
    "tokenizer.ggml.token_type": { type: "i32s", value: Array.from({ length: VOCAB }, (_, i) => i < 2 ? 3 : 1) },
    "tokenizer.ggml.merges": { type: "strings", value: [] },
    "tokenizer.ggml.bos_token_id": { type: "u32", value: 0 },
    "tokenizer.ggml.eos_token_id": { type: "u32", value: 1 },
  };
}

const LAYER: Record<string, number[]> = {
  attn_norm: [HIDDEN],
  attn_q: [HIDDEN, HIDDEN],
  attn_k: [HIDDEN, HIDDEN],
  attn_v: [HIDDEN, HIDDEN],
  attn_output: [HIDDEN, HIDDEN],
  ffn_norm: [HIDDEN],
  ffn_gate: [HIDDEN, FFN],
  ffn_up: [HIDDEN, FFN],
  ffn_down: [FFN, HIDDEN],
};

/** Tensors of the small model as GGUF has them. */
export function ggufTensors(): GgufEntry[] {
  return [
    { name: "token_embd.weight", dims: [HIDDEN, VOCAB], type: 0 },
    { name: "output_norm.weight", dims: [HIDDEN], type: 0 },
    ...Object.entries(LAYER).map(([name, dims]) => ({ name: `blk.0.${name}.weight`, dims, type: 0 })),
  ];
}

const HF: Record<string, string> = {
  attn_norm: "input_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  ffn_norm: "post_attention_layernorm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
};

/** `config.json` of the small model. */
export function hfConfig(): Record<string, unknown> {
  return {
    model_type: "llama",
    vocab_size: VOCAB,
    hidden_size: HIDDEN,
    num_hidden_layers: 1,
    num_attention_heads: HEADS,
    num_key_value_heads: HEADS,
    intermediate_size: FFN,
    max_position_embeddings: 128,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    tie_word_embeddings: true,
    bos_token_id: 0,
    eos_token_id: 1,
  };
}

/** Bytes of `model.safetensors` of the small model. */
export async function hfWeights(): Promise<Uint8Array<ArrayBuffer>> {
  const tensors: Record<string, TensorData> = {};
  for (const { name, dims } of ggufTensors()) {
    const shape = dims.map(Number).toReversed(), data = new Float32Array(shape.reduce((a, b) => a * b, 1));
    const short = name.replace(/^blk\.0\.|\.weight$/g, "");
    const full = short === "token_embd"
      ? "model.embed_tokens"
      : short === "output_norm"
      ? "model.norm"
      : `model.layers.0.${HF[short]}`;
    tensors[`${full}.weight`] = { dtype: "F32", shape, data };
  }
  const path = await Deno.makeTempFile();
  try {
    await writeSafetensors(path, tensors);
    return await Deno.readFile(path);
  } finally {
    await Deno.remove(path);
  }
}

/** `tokenizer.json` of the bundled model: a real one. */
export function bundledTokenizer(): Record<string, unknown> {
  const root = dirname(dirname(dirname(fromFileUrl(import.meta.url))));
  return JSON.parse(Deno.readTextFileSync(join(root, "models/fable-28m/tokenizer.json")));
}

/** The random generator of a test, and what it cuts. */
export function truncations(bytes: Uint8Array<ArrayBuffer>, count: number, seed: number): Uint8Array<ArrayBuffer>[] {
  const rng = new Rng(seed);
  return Array.from({ length: count }, () => bytes.slice(0, rng.below(bytes.length)));
}

/** Runs a test in a folder of its own. */
export async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "commvq-test-" });
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
