/**
 * A LLaMA's shape from its files, and the tensors that it must have.
 *
 * @module
 */
import { FileFormatError, UnsupportedModelError } from "../core/errors.ts";
import { BLOCKS, type LlamaConfig, type RopeScaling } from "../core/model.ts";
import type { ModelFiles, TensorFile } from "./model_files.ts";

/** Bounds that no LLaMA comes near, so that a nonsense number cannot ask for nonsense memory. */
const MOST = { hidden: 65_536, layers: 1024, heads: 1024, ffn: 2 ** 20, vocab: 2 ** 22, context: 2 ** 27 };

/** Reads settings by key, and says by key what is wrong with one. */
class Settings {
  constructor(readonly files: ModelFiles) {}

  get(key: string): unknown {
    const value = this.files.config.get(key);
    return value === null ? undefined : value;
  }

  error(key: string, requirement: string, value = this.get(key)): FileFormatError {
    const shown = typeof value === "object" ? JSON.stringify(value, plain) : String(value ?? "missing");
    return new FileFormatError(
      `Cannot use ${this.files.name} as ${key} must be ${requirement}: it is ${shown.slice(0, 80)}`,
    );
  }

  number(key: string, least: number, most: number, otherwise?: number): number {
    const value = this.get(key) ?? otherwise;
    if (typeof value === "number" && value >= least && value <= most) return value;
    throw this.error(key, `a number from ${least} to ${most}`, value);
  }

  integer(key: string, most: number, otherwise?: number, least = 1): number {
    const value = this.get(key) ?? otherwise;
    if (Number.isInteger(value) && (value as number) >= least && (value as number) <= most) return value as number;
    throw this.error(key, `a whole number from ${least} to ${most}`, value);
  }

  /** A token's id, or `null` without one. */
  id(key: string, vocab: number): number | null {
    return this.get(key) === undefined ? null : this.integer(key, vocab - 1, undefined, 0);
  }

  flag(key: string, otherwise: boolean): boolean {
    const value = this.get(key) ?? otherwise;
    if (typeof value === "boolean") return value;
    throw this.error(key, "true or false");
  }

  unsupported(key: string, supported: string): UnsupportedModelError {
    const shown = JSON.stringify(this.get(key), plain);
    return new UnsupportedModelError(
      `Cannot run ${this.files.name} as its ${key} is ${shown?.slice(0, 80)}: supported is ${supported}`,
    );
  }
}

/** Lets JSON show 64-bit numbers. */
function plain(_: string, value: unknown): unknown {
  return typeof value === "bigint" ? String(value) : value;
}

/** The shape of a LLaMA 1, 2, 3, 3.1 or 3.2. Anything else is refused by name. */
export function llamaConfig(files: ModelFiles): LlamaConfig {
  const config = files.kind === "gguf" ? ggufConfig(files) : hfConfig(files), { headDim, qHeads, kvHeads } = config;
  const refuse = (what: string): never => {
    throw new UnsupportedModelError(`Cannot run ${files.name} as ${what}`);
  };
  if (headDim % 8 !== 0 || headDim < 32 || headDim > 256) {
    refuse(`the head dimension must be a multiple of 8 from 32 to 256: it is ${headDim}`);
  }
  if (qHeads % kvHeads !== 0) refuse(`${qHeads} query heads cannot share ${kvHeads} key/value heads evenly`);
  if (config.hidden % 8 !== 0 || config.ffn % 8 !== 0) {
    refuse(`its widths must be multiples of 8: hidden is ${config.hidden} and feed-forward ${config.ffn}`);
  }
  return config;
}

function ggufConfig(files: ModelFiles): LlamaConfig {
  const s = new Settings(files), architecture = s.get("general.architecture");
  if (typeof architecture !== "string") throw s.error("general.architecture", "a name");
  if (architecture !== "llama") throw s.unsupported("general.architecture", '"llama"');
  const hidden = s.integer("llama.embedding_length", MOST.hidden),
    qHeads = s.integer("llama.attention.head_count", MOST.heads);
  const headDim = s.integer("llama.attention.key_length", 1024, hidden / qHeads);
  for (
    const [key, want] of [["llama.attention.value_length", headDim], ["llama.rope.dimension_count", headDim]] as const
  ) {
    if (s.integer(key, 1024, headDim) !== want) throw s.unsupported(key, `the head dimension, ${headDim}`);
  }
  if (s.get("llama.expert_count") !== undefined && s.get("llama.expert_count") !== 0) {
    throw s.unsupported("llama.expert_count", "no experts");
  }
  const vocab = s.integer("llama.vocab_size", MOST.vocab, files.tensors.get("token_embd.weight")?.shape[0]);
  return {
    vocab,
    hidden,
    layers: s.integer("llama.block_count", MOST.layers),
    qHeads,
    kvHeads: s.integer("llama.attention.head_count_kv", MOST.heads, qHeads),
    headDim,
    ffn: s.integer("llama.feed_forward_length", MOST.ffn),
    context: s.integer("llama.context_length", MOST.context),
    normEps: s.number("llama.attention.layer_norm_rms_epsilon", 0, 0.1),
    ropeTheta: s.number("llama.rope.freq_base", 1, 1e12, 10_000),
    ropeScaling: ggufRopeScaling(s),
    tiedEmbeddings: !files.tensors.has("output.weight"),
    bos: s.id("tokenizer.ggml.bos_token_id", vocab),
    eos: [s.id("tokenizer.ggml.eos_token_id", vocab)].filter((id) => id !== null),
    interleavedRope: true,
  };
}

/** As llama.cpp reads it: a factor without a type is linear, older files have `scale_linear`, and zero is none. */
function ggufRopeScaling(s: Settings): RopeScaling | null {
  const type = s.get("llama.rope.scaling.type") ?? "linear", key = "llama.rope.scaling.factor";
  if (type === "none") return null;
  if (type !== "linear") throw s.unsupported("llama.rope.scaling.type", '"none" or "linear"');
  const older = s.get("llama.rope.scale_linear") === undefined ? 1 : s.number("llama.rope.scale_linear", 0, 1e6);
  const factor = s.number(key, 0, 1e6, older) || 1;
  if (factor === 1) return null;
  if (s.files.tensors.has("rope_freqs.weight")) throw s.unsupported(key, "1 where rope_freqs.weight scales already");
  return { type, factor };
}

function hfConfig(files: ModelFiles): LlamaConfig {
  const s = new Settings(files);
  if (typeof s.get("model_type") !== "string") throw s.error("model_type", "a name");
  if (s.get("model_type") !== "llama") throw s.unsupported("model_type", '"llama"');
  for (const key of ["attention_bias", "mlp_bias"]) if (s.flag(key, false)) throw s.unsupported(key, "false");
  if ((s.get("hidden_act") ?? "silu") !== "silu") throw s.unsupported("hidden_act", '"silu"');
  if ((s.get("partial_rotary_factor") ?? 1) !== 1) throw s.unsupported("partial_rotary_factor", "1");
  if ((s.get("pretraining_tp") ?? 1) !== 1) throw s.unsupported("pretraining_tp", "1");
  for (const key of ["sliding_window", "quantization_config"]) {
    if (s.get(key) !== undefined) throw s.unsupported(key, "none");
  }
  const hidden = s.integer("hidden_size", MOST.hidden), qHeads = s.integer("num_attention_heads", MOST.heads);
  const vocab = s.integer("vocab_size", MOST.vocab), eos = s.get("eos_token_id");
  if (Array.isArray(eos) && !eos.every((id) => Number.isInteger(id) && id >= 0 && id < vocab)) {
    throw s.error("eos_token_id", `token ids below ${vocab}`);
  }
  return {
    vocab,
    hidden,
    layers: s.integer("num_hidden_layers", MOST.layers),
    qHeads,
    kvHeads: s.integer("num_key_value_heads", MOST.heads, qHeads),
    headDim: s.integer("head_dim", 1024, hidden / qHeads),
    ffn: s.integer("intermediate_size", MOST.ffn),
    context: s.integer("max_position_embeddings", MOST.context, 2048),
    normEps: s.number("rms_norm_eps", 0, 0.1, 1e-6),
    ...hfRope(s),
    tiedEmbeddings: s.flag("tie_word_embeddings", false),
    bos: s.id("bos_token_id", vocab),
    eos: Array.isArray(eos) ? eos : [s.id("eos_token_id", vocab)].filter((id) => id !== null),
    interleavedRope: false,
  };
}

/** `rope_theta` and `rope_scaling`, or both as `rope_parameters`, where newer files keep them. */
function hfRope(s: Settings): Pick<LlamaConfig, "ropeTheta" | "ropeScaling"> {
  const newer = s.get("rope_parameters") !== undefined,
    key = newer ? "rope_parameters" : "rope_scaling",
    value = s.get(key);
  if (value !== undefined && (typeof value !== "object" || Array.isArray(value))) throw s.error(key, "an object");
  const fields = new Map(Object.entries(value ?? {})),
    of = (name: string, least: number, most: number, otherwise?: number): number => {
      const number = fields.get(name) ?? otherwise;
      if (typeof number === "number" && number >= least && number <= most) return number;
      throw s.error(key, `complete, with a ${name} from ${least} to ${most}`);
    };
  const ropeTheta = newer && fields.has("rope_theta")
    ? of("rope_theta", 1, 1e12)
    : s.number("rope_theta", 1, 1e12, 10_000);
  const type = fields.get("rope_type") ?? fields.get("type") ?? "default";
  if (type === "default") return { ropeTheta, ropeScaling: null };
  if (type === "linear") return { ropeTheta, ropeScaling: { type, factor: of("factor", 1, 1e6) } };
  if (type !== "llama3") throw s.unsupported(key, 'type "default", "linear" or "llama3"');
  const lowFreqFactor = of("low_freq_factor", 0, 1e6), highFreqFactor = of("high_freq_factor", 0, 1e6);
  if (highFreqFactor <= lowFreqFactor) throw s.error(key, "of a high_freq_factor above its low_freq_factor");
  const originalContext = of("original_max_position_embeddings", 1, MOST.context);
  return {
    ropeTheta,
    ropeScaling: { type, factor: of("factor", 1, 1e6), lowFreqFactor, highFreqFactor, originalContext },
  };
}

/** Tensors of one layer. */
export interface LayerFiles {
  readonly attnNorm: TensorFile;
  readonly q: TensorFile;
  readonly k: TensorFile;
  readonly v: TensorFile;
  readonly o: TensorFile;
  readonly ffnNorm: TensorFile;
  readonly gate: TensorFile;
  readonly up: TensorFile;
  readonly down: TensorFile;
}

/** Tensors of a whole model. */
export interface LlamaFiles {
  readonly embed: TensorFile;
  readonly layers: readonly LayerFiles[];
  readonly norm: TensorFile;
  /** Absent where the embedding is tied. */
  readonly output?: TensorFile;
  /** Absent where the frequencies follow from the config. */
  readonly ropeFreqs?: TensorFile;
}

const LAYER_NAMES = {
  gguf: {
    attnNorm: "attn_norm",
    q: "attn_q",
    k: "attn_k",
    v: "attn_v",
    o: "attn_output",
    ffnNorm: "ffn_norm",
    gate: "ffn_gate",
    up: "ffn_up",
    down: "ffn_down",
  },
  hf: {
    attnNorm: "input_layernorm",
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    o: "self_attn.o_proj",
    ffnNorm: "post_attention_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
  },
};

/** Tensors of some files that say nothing: frequencies that follow from the settings, and an output that is tied. */
const IGNORED = /(rotary_emb\.inv_freq|attn_rot_embd(\.weight)?|^lm_head\.weight)$/;

/** Finds every tensor of a model and checks its shape. Throws by name for one that is missing or of another shape. */
export function llamaFiles(files: ModelFiles, config: LlamaConfig): LlamaFiles {
  const { vocab, hidden, qHeads, kvHeads, headDim, ffn } = config,
    gguf = files.kind === "gguf",
    found = new Set<string>();
  const find = (name: string, ...shape: number[]): TensorFile => {
    found.add(name);
    const tensor = files.tensors.get(name);
    if (!tensor) {
      throw new FileFormatError(`Cannot run ${files.name} as the tensor '${name}' is missing: get a complete copy`);
    }
    if (tensor.shape.length !== shape.length || tensor.shape.some((axis, i) => axis !== shape[i])) {
      throw new FileFormatError(
        `Cannot run ${files.name} as '${name}' must have shape [${shape}]: it has [${tensor.shape}]`,
      );
    }
    if (shape.length === 1 && BLOCKS[tensor.type].weights > 1) {
      throw new UnsupportedModelError(
        `Cannot run ${files.name} as '${name}' must be of type F32, F16 or BF16: it is ${tensor.type}`,
      );
    }
    return tensor;
  };
  const names = LAYER_NAMES[files.kind],
    layers = Array.from({ length: config.layers }, (_, i): LayerFiles => {
      const of = (key: keyof typeof names, ...shape: number[]): TensorFile =>
        find(`${gguf ? "blk" : "model.layers"}.${i}.${names[key]}.weight`, ...shape);
      return {
        attnNorm: of("attnNorm", hidden),
        q: of("q", qHeads * headDim, hidden),
        k: of("k", kvHeads * headDim, hidden),
        v: of("v", kvHeads * headDim, hidden),
        o: of("o", hidden, qHeads * headDim),
        ffnNorm: of("ffnNorm", hidden),
        gate: of("gate", ffn, hidden),
        up: of("up", ffn, hidden),
        down: of("down", hidden, ffn),
      };
    });
  const llama: LlamaFiles = {
    embed: find(gguf ? "token_embd.weight" : "model.embed_tokens.weight", vocab, hidden),
    layers,
    norm: find(gguf ? "output_norm.weight" : "model.norm.weight", hidden),
    output: config.tiedEmbeddings ? undefined : find(gguf ? "output.weight" : "lm_head.weight", vocab, hidden),
    ropeFreqs: files.tensors.has("rope_freqs.weight") ? find("rope_freqs.weight", headDim / 2) : undefined,
  };
  // What no code reads, such as a bias or a layer more than the settings tell, would change the text silently.
  const other = [...files.tensors.keys()].find((name) => !found.has(name) && !IGNORED.test(name));
  if (other === undefined) return llama;
  throw new UnsupportedModelError(
    `Cannot run ${files.name} as it has a tensor that its LLaMA has no use for: '${other}'`,
  );
}
