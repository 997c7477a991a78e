import { assertEquals, assertThrows } from "@std/assert";
import { FileFormatError, UnsupportedModelError } from "../../src/core/errors.ts";
import type { LlamaConfig } from "../../src/core/model.ts";
import { llamaConfig, llamaFiles } from "../../src/files/llama_config.ts";
import { type ModelFiles, openModel } from "../../src/files/model_files.ts";
import { randomLlama, writeGguf } from "../_llama.ts";
import { inFolder } from "./_files.ts";

/** Files that hold settings alone, and tensors of which only names and shapes count. */
function settings(kind: "hf" | "gguf", config: object, tensors: Record<string, number[]> = {}): ModelFiles {
  const files = Object.entries(tensors).map(([name, shape]) => [name, { name, type: "F32", shape }]);
  return {
    name: "x",
    kind,
    config: new Map(Object.entries(config)),
    tensors: new Map(files as []),
  } as unknown as ModelFiles;
}

function assertHas(actual: LlamaConfig, part: Partial<LlamaConfig>): void {
  assertEquals({ ...actual, ...part }, actual);
}

/** Settings as the models' own files have them. */
const LLAMA_1 = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_act: "silu",
  hidden_size: 4096,
  intermediate_size: 11_008,
  num_attention_heads: 32,
  num_hidden_layers: 32,
  rms_norm_eps: 1e-6,
  vocab_size: 32_000,
  bos_token_id: 1,
  eos_token_id: 2,
  pad_token_id: -1,
  tie_word_embeddings: false,
};
const LLAMA_2_70B = {
  ...LLAMA_1,
  hidden_size: 8192,
  intermediate_size: 28_672,
  max_position_embeddings: 4096,
  num_attention_heads: 64,
  num_hidden_layers: 80,
  num_key_value_heads: 8,
  pretraining_tp: 1,
  rms_norm_eps: 1e-5,
  rope_scaling: null,
};
const ROPE_3 = { factor: 8, high_freq_factor: 4, low_freq_factor: 1, original_max_position_embeddings: 8192 };
const LLAMA_3_1 = {
  ...LLAMA_1,
  attention_bias: false,
  bos_token_id: 128_000,
  eos_token_id: [128_001, 128_008, 128_009],
  intermediate_size: 14_336,
  max_position_embeddings: 131_072,
  mlp_bias: false,
  num_key_value_heads: 8,
  rms_norm_eps: 1e-5,
  rope_scaling: { ...ROPE_3, rope_type: "llama3" },
  rope_theta: 500_000,
  vocab_size: 128_256,
};
const SCALED_3 = { type: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalContext: 8192 } as const;
const LLAMA_3_2_1B = {
  ...LLAMA_3_1,
  head_dim: 64,
  hidden_size: 2048,
  intermediate_size: 8192,
  num_hidden_layers: 16,
  rope_scaling: { ...ROPE_3, factor: 32, rope_type: "llama3" },
  tie_word_embeddings: true,
};

Deno.test("llamaConfig() reads LLaMA 1, 2, 3.1 and 3.2 from config.json", () => {
  const read = (config: object) => llamaConfig(settings("hf", config));
  assertEquals(read(LLAMA_1), {
    vocab: 32_000,
    hidden: 4096,
    layers: 32,
    qHeads: 32,
    kvHeads: 32,
    headDim: 128,
    ffn: 11_008,
    context: 2048,
    normEps: 1e-6,
    ropeTheta: 10_000,
    ropeScaling: null,
    tiedEmbeddings: false,
    bos: 1,
    eos: [2],
    interleavedRope: false,
  });
  assertHas(read(LLAMA_2_70B), { qHeads: 64, kvHeads: 8, headDim: 128, context: 4096, ropeScaling: null });
  assertHas(read(LLAMA_3_1), {
    kvHeads: 8,
    bos: 128_000,
    eos: [128_001, 128_008, 128_009],
    ropeTheta: 500_000,
    ropeScaling: SCALED_3,
  });
  assertHas(read(LLAMA_3_2_1B), {
    headDim: 64,
    tiedEmbeddings: true,
    ropeScaling: { ...SCALED_3, factor: 32 },
  });
});

Deno.test("llamaConfig() reads rotary settings by their old and their new names", () => {
  const read = (change: object) => {
    const { ropeTheta, ropeScaling } = llamaConfig(settings("hf", { ...LLAMA_1, ...change }));
    return [ropeTheta, ropeScaling];
  };
  const linear = { type: "linear", factor: 4 } as const;
  assertEquals(read({ rope_scaling: linear }), [10_000, linear]);
  assertEquals(read({ rope_scaling: { rope_type: "default" } }), [10_000, null]);
  assertEquals(read({ rope_parameters: { rope_type: "default", rope_theta: 7 } }), [7, null]);
  assertEquals(read({ rope_parameters: { ...ROPE_3, rope_type: "llama3", rope_theta: 5e5 } }), [5e5, SCALED_3]);
});

const GGUF = {
  "general.architecture": "llama",
  "llama.context_length": 4096,
  "llama.embedding_length": 4096,
  "llama.block_count": 32,
  "llama.feed_forward_length": 11_008,
  "llama.attention.head_count": 32,
  "llama.attention.layer_norm_rms_epsilon": 1e-5,
  "llama.vocab_size": 32_000,
};

Deno.test("llamaConfig() reads GGUF metadata, with llama.cpp's defaults", () => {
  const read = (change: object, tensors = {}): LlamaConfig =>
    llamaConfig(settings("gguf", { ...GGUF, ...change }, tensors));
  assertEquals(read({}, { "output.weight": [32_000, 4096] }), {
    vocab: 32_000,
    hidden: 4096,
    layers: 32,
    qHeads: 32,
    kvHeads: 32,
    headDim: 128,
    ffn: 11_008,
    context: 4096,
    normEps: 1e-5,
    ropeTheta: 10_000,
    ropeScaling: null,
    tiedEmbeddings: false,
    bos: null,
    eos: [],
    interleavedRope: true,
  });
  assertEquals(read({ "llama.vocab_size": undefined }, { "token_embd.weight": [77, 4096] }).vocab, 77);
  const factor = "llama.rope.scaling.factor", linear = { type: "linear", factor: 4 };
  assertEquals(read({ "llama.rope.scaling.type": "linear", [factor]: 4 }).ropeScaling, linear);
  assertEquals(read({ [factor]: 4 }).ropeScaling, linear);
  assertEquals(read({ "llama.rope.scale_linear": 4 }).ropeScaling, linear);
  for (const change of [{ "llama.rope.scaling.type": "none", [factor]: 4 }, { [factor]: 0 }, { [factor]: 1 }]) {
    assertEquals(read(change).ropeScaling, null);
  }
  const factors = { "rope_freqs.weight": [64] };
  assertEquals(read({}, factors).ropeScaling, null);
  assertThrows(() => read({ [factor]: 4 }, factors), UnsupportedModelError, "rope_freqs.weight scales already");
});

Deno.test("llamaConfig() refuses by name what it does not run", () => {
  const refused: [object, string][] = [
    [{ model_type: "mistral" }, 'its model_type is "mistral": supported is "llama"'],
    [{ attention_bias: true }, "its attention_bias is true: supported is false"],
    [{ mlp_bias: true }, "its mlp_bias is true"],
    [{ hidden_act: "gelu" }, 'its hidden_act is "gelu": supported is "silu"'],
    [{ partial_rotary_factor: 0.5 }, "its partial_rotary_factor is 0.5"],
    [{ sliding_window: 4096 }, "its sliding_window is 4096: supported is none"],
    [{ quantization_config: { quant_method: "gptq" } }, 'its quantization_config is {"quant_method":"gptq"}'],
    [{ rope_scaling: { type: "yarn", factor: 2 } }, 'its rope_scaling is {"type":"yarn"'],
    [{ rope_scaling: { type: "dynamic", factor: 2 } }, 'supported is type "default", "linear" or "llama3"'],
    [{ rope_parameters: { rope_type: "longrope" } }, "its rope_parameters is"],
    [{ head_dim: 24 }, "the head dimension must be a multiple of 8 from 32 to 256: it is 24"],
    [{ num_key_value_heads: 5 }, "32 query heads cannot share 5 key/value heads evenly"],
  ];
  for (const [change, message] of refused) {
    assertThrows(() => llamaConfig(settings("hf", { ...LLAMA_1, ...change })), UnsupportedModelError, message);
  }
  const metadata: [object, string][] = [
    [{ "general.architecture": "qwen2" }, 'its general.architecture is "qwen2": supported is "llama"'],
    [
      { "llama.rope.dimension_count": 64 },
      "its llama.rope.dimension_count is 64: supported is the head dimension, 128",
    ],
    [{ "llama.attention.value_length": 64 }, "its llama.attention.value_length is 64"],
    [{ "llama.expert_count": 8 }, "its llama.expert_count is 8: supported is no experts"],
    [{ "llama.rope.scaling.type": "yarn" }, 'its llama.rope.scaling.type is "yarn"'],
  ];
  for (const [change, message] of metadata) {
    assertThrows(() => llamaConfig(settings("gguf", { ...GGUF, ...change })), UnsupportedModelError, message);
  }
});

Deno.test("llamaConfig() says which number is nonsense, given or not", () => {
  const read = (change: object) => () => llamaConfig(settings("hf", { ...LLAMA_1, ...change }));
  assertThrows(
    read({ num_attention_heads: 7 }),
    FileFormatError,
    "head_dim must be a whole number from 1 to 1024: it is 585.1",
  );
  assertThrows(
    read({ hidden_size: undefined }),
    FileFormatError,
    "hidden_size must be a whole number from 1 to 65536: it is missing",
  );
  assertThrows(read({ rms_norm_eps: NaN }), FileFormatError, "rms_norm_eps must be a number from 0 to 0.1: it is NaN");
  assertThrows(read({ bos_token_id: 32_000 }), FileFormatError, "bos_token_id must be a whole number from 0 to 31999");
  assertThrows(
    read({ eos_token_id: [2, 32_000] }),
    FileFormatError,
    "eos_token_id must be token ids below 32000: it is [2,32000]",
  );
  const huge = { ...GGUF, "llama.block_count": 2n ** 63n };
  assertThrows(() => llamaConfig(settings("gguf", huge)), FileFormatError, "it is 9223372036854775808");
});

Deno.test("llamaFiles() names a tensor that is missing, of another shape or type, or of no use", () =>
  inFolder(async (folder) => {
    await writeGguf(`${folder}/x.gguf`, randomLlama({ hidden: 64, qHeads: 2, kvHeads: 1, headDim: 32, ffn: 96 }, 1));
    using files = await openModel(`${folder}/x.gguf`);
    const config = llamaConfig(files), name = "blk.1.attn_norm.weight", norm = files.tensors.get(name)!;
    const check = (change: object | undefined, other: object = {}, changed = config) => () => {
      const tensors = new Map(files.tensors);
      if (change) tensors.set(name, { ...norm, ...change });
      else tensors.delete(name);
      for (const key of Object.keys(other)) tensors.set(key, norm);
      return llamaFiles({ ...files, tensors }, changed);
    };
    assertEquals(check({})().layers[1]!.attnNorm, norm);
    check({}, { "blk.0.attn_rot_embd.weight": 0 })();
    assertThrows(check(undefined), FileFormatError, `the tensor '${name}' is missing`);
    assertThrows(check({ shape: [32] }), FileFormatError, `'${name}' must have shape [64]: it has [32]`);
    assertThrows(check({ shape: [64, 1] }), FileFormatError, `must have shape [64]: it has [64,1]`);
    assertThrows(
      check({ type: "Q8_0" }),
      UnsupportedModelError,
      `'${name}' must be of type F32, F16 or BF16: it is Q8_0`,
    );
    assertThrows(check({}, { "blk.0.attn_q.bias": 0 }), UnsupportedModelError, "has no use for: 'blk.0.attn_q.bias'");
    assertThrows(check({}, {}, { ...config, layers: 1 }), UnsupportedModelError, "has no use for: 'blk.1.");
    assertThrows(
      check({}, {}, { ...config, layers: 3 }),
      FileFormatError,
      "the tensor 'blk.2.attn_norm.weight' is missing",
    );
  }));
