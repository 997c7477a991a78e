/**
 * What a LLaMA is, apart from its files and its GPU.
 *
 * @module
 */

/** How a weight matrix is stored. The names are GGUF's. */
export type WeightType = "F32" | "F16" | "BF16" | "Q8_0" | "Q4_0" | "Q4_K" | "Q6_K";

/** Weights of a block and its bytes in a file. */
export interface BlockSize {
  readonly weights: number;
  readonly bytes: number;
}

/** Blocks of every type, as GGUF stores them. */
export const BLOCKS: Readonly<Record<WeightType, BlockSize>> = {
  F32: { weights: 1, bytes: 4 },
  F16: { weights: 1, bytes: 2 },
  BF16: { weights: 1, bytes: 2 },
  Q8_0: { weights: 32, bytes: 34 },
  Q4_0: { weights: 32, bytes: 18 },
  Q4_K: { weights: 256, bytes: 144 },
  Q6_K: { weights: 256, bytes: 210 },
};

/** How rotary frequencies are stretched for contexts longer than a model was first trained on. */
export type RopeScaling =
  | { readonly type: "linear"; readonly factor: number }
  | {
    readonly type: "llama3";
    readonly factor: number;
    readonly lowFreqFactor: number;
    readonly highFreqFactor: number;
    readonly originalContext: number;
  };

/** A LLaMA's shape and settings. */
export interface LlamaConfig {
  /** Tokens: rows of the embedding. */
  readonly vocab: number;
  /** Width of the residual stream. */
  readonly hidden: number;
  /** Layers. */
  readonly layers: number;
  /** Query heads. */
  readonly qHeads: number;
  /** Key/value heads; each serves `qHeads / kvHeads` query heads. */
  readonly kvHeads: number;
  /** Channels of a head. */
  readonly headDim: number;
  /** Width of the feed-forward branch. */
  readonly ffn: number;
  /** Most tokens of a sequence that the model's file allows. */
  readonly context: number;
  /** Added to the mean square under the root of RMSNorm. */
  readonly normEps: number;
  /** Base of the rotary frequencies. */
  readonly ropeTheta: number;
  /** How the frequencies are stretched, if they are. */
  readonly ropeScaling: RopeScaling | null;
  /** Whether the output matrix is the embedding. */
  readonly tiedEmbeddings: boolean;
  /** Id of the token that begins a text. */
  readonly bos: number | null;
  /** Ids of the tokens that end a text. */
  readonly eos: readonly number[];
  /** Whether rotary pairs are adjacent rows of Q and K, as GGUF permutes them, and not half a head apart. */
  readonly interleavedRope: boolean;
}
