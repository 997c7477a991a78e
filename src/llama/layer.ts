/**
 * One layer around its attention, and the two ends of the model.
 *
 * @module
 */
import type { LlamaConfig } from "../core/model.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { Embed } from "../kernels/embed.ts";
import { GatedMlp } from "../kernels/gated_mlp.ts";
import { RmsNorm } from "../kernels/rms_norm.ts";
import type { Scratch } from "./activations.ts";
import { Linear } from "./linear.ts";
import type { Weights } from "./weights.ts";

const NORMED = { norm: true } as const,
  GATED = { norm: true, gated: true } as const,
  RESIDUAL = { residual: true } as const;

/**
 * Encodes layers. One token takes the fused path, where the device has it: norms inside the products that follow them,
 * the gate inside its own, residuals inside the products that end a branch.
 */
export class Layer {
  private constructor(
    readonly config: LlamaConfig,
    readonly weights: Weights,
    readonly linear: Linear,
    readonly ops: { embed: Embed; norm: RmsNorm; gate: GatedMlp },
  ) {}

  static async create(gpu: Gpu, config: LlamaConfig, weights: Weights): Promise<Layer> {
    const uses = weights.layers.flatMap(({ qkv, o, gateUp, down }) => [
      ...qkv.map(({ matrix }) => ({ matrix, form: NORMED })),
      { matrix: o, form: RESIDUAL },
      ...gateUp.map(({ matrix }) => ({ matrix, form: matrix.paired ? GATED : NORMED })),
      { matrix: down, form: RESIDUAL },
    ]);
    const linear = await Linear.create(gpu, [...uses, { matrix: weights.output, form: NORMED }]);
    const embed = await Embed.create(gpu, weights.embed.type, weights.embed);
    return new Layer(config, weights, linear, {
      embed,
      norm: await RmsNorm.create(gpu, config.hidden),
      gate: await GatedMlp.create(gpu),
    });
  }

  /** Rows of the embedding: `ids u32 [T]` to `x f32 [T][H]`. */
  embed(commands: Commands, ids: Tensor, x: Tensor): void {
    this.ops.embed.encode(commands, this.weights.embed, { ids, out: x });
  }

  /** Queries, keys and values of `x f32 [T][H]`, before RoPE, to `scratch.qkv`. */
  qkv(commands: Commands, layer: number, x: Tensor, { tokens, normed, qkv }: Scratch): void {
    const { attnNorm: gain, qkv: matrices } = this.weights.layers[layer]!, { normEps: eps } = this.config;
    const fused = this.#fuses(tokens);
    if (!fused) this.ops.norm.encode(commands, { x, gain, out: normed }, eps);
    for (const { matrix, column } of matrices) {
      if (!fused) this.linear.rows(commands, matrix, { x: normed, out: qkv }, { column });
      else this.linear.vector(commands, matrix, NORMED, { x, gain, out: qkv }, { eps, outOffset: column });
    }
  }

  /** What follows attention: its output product and the feed-forward branch, both added to `x`. */
  rest(commands: Commands, layer: number, x: Tensor, { tokens, normed, mixed, gateUp, gated }: Scratch): void {
    const { o, ffnNorm: gain, gateUp: matrices, down } = this.weights.layers[layer]!, { linear, ops } = this;
    const { normEps: eps } = this.config;
    if (!this.#fuses(tokens)) {
      linear.rows(commands, o, { x: mixed, out: x }, RESIDUAL);
      ops.norm.encode(commands, { x, gain, out: normed }, eps);
      for (const { matrix, column } of matrices) linear.rows(commands, matrix, { x: normed, out: gateUp }, { column });
      ops.gate.encode(commands, { gateUp, out: gated });
      linear.rows(commands, down, { x: gated, out: x }, RESIDUAL);
      return;
    }
    linear.vector(commands, o, RESIDUAL, { x: mixed, out: x });
    const [first] = matrices;
    if (first!.matrix.paired) linear.vector(commands, first!.matrix, GATED, { x, gain, out: gated }, { eps });
    else {
      for (const { matrix, column } of matrices) {
        linear.vector(commands, matrix, NORMED, { x, gain, out: gateUp }, { eps, outOffset: column });
      }
      ops.gate.encode(commands, { gateUp, out: gated });
    }
    linear.vector(commands, down, RESIDUAL, { x: gated, out: x });
  }

  /** Logits `[1][V]` of row `row` of `x f32 [T][H]`, by the scratch of one token. */
  head(commands: Commands, x: Tensor, row: number, scratch: Scratch, logits: Tensor): void {
    const { norm: gain, output } = this.weights, { hidden, normEps: eps } = this.config, xOffset = row * hidden;
    if (!this.linear.fuses) return this.heads(commands, x.view(xOffset, [1, hidden]), scratch, logits);
    this.linear.vector(commands, output, NORMED, { x, gain, out: logits }, { eps, xOffset });
  }

  /** Logits `[T][V]` of every row of `x f32 [T][H]`. */
  heads(commands: Commands, x: Tensor, scratch: Scratch, logits: Tensor): void {
    const { tokens, normed } = scratch;
    if (this.#fuses(tokens)) return this.head(commands, x, 0, scratch, logits);
    this.ops.norm.encode(commands, { x, gain: this.weights.norm, out: normed }, this.config.normEps);
    this.linear.rows(commands, this.weights.output, { x: normed, out: logits });
  }

  #fuses(tokens: number): boolean {
    return tokens === 1 && this.linear.fuses;
  }
}
