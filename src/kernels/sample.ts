import { sampleShapes } from "../core/shapes.ts";
import type { Commands } from "../gpu/commands.ts";
import type { Gpu } from "../gpu/gpu.ts";
import { type Buffers, expectShapes, Kernel } from "../gpu/kernel.ts";
import { sample } from "../gpu/wgsl.gen.ts";

const LANES = 256, SCAN = 0, NARROW = 1, PICK = 2;
/** Passes of a search for a threshold: four bits each. */
const PASSES = 8;
/** Below and above, a temperature changes nothing that an f32 shows, except that it would overflow. */
const COLDEST = 1e-20, HOTTEST = 1e20;

/** How tokens are chosen: temperature 0 is greedy; topK 0, topP 1 and minP 0 keep every token. */
export interface SampleRule {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
}

/** The tensors of `sample`; without `bias` nothing is added to the logits. */
export type SampleBuffers = Omit<Buffers<typeof sample>, "bias"> & Partial<Pick<Buffers<typeof sample>, "bias">>;

/** Chooses tokens of a vocabulary. Borrows every tensor. */
export class Sample {
  private constructor(
    readonly scan: Kernel<typeof sample>,
    readonly narrow: Kernel<typeof sample>,
    readonly pick: Kernel<typeof sample>,
  ) {}

  static async create(gpu: Gpu): Promise<Sample> {
    const stage = (STAGE: number) => Kernel.create(gpu, sample, { WG: LANES, STAGE });
    return new Sample(await stage(SCAN), await stage(NARROW), await stage(PICK));
  }

  /**
   * Encodes one choice from `logits [1][V]`: its id goes to `tokens[index]`, `record` and the bits of `seen`. Equal
   * `seed` and `step` give equal choices from equal logits.
   */
  encode(
    commands: Commands,
    io: SampleBuffers,
    rule: SampleRule,
    { seed, step, index = 0 }: { readonly seed: number; readonly step: number; readonly index?: number },
  ): void {
    const vocab = io.logits.shape[1]!, shapes = sampleShapes(vocab), groups = shapes.partials[1]!;
    const { bias = io.logits, ...rest } = io, tokens = io.tokens.shape[0]!;
    if (vocab > 2 ** 24) throw new RangeError(`Cannot sample as a vocabulary has at most 2^24 tokens: it has ${vocab}`);
    expectShapes("sample", { ...rest, bias }, { ...shapes, bias: io.bias ? shapes.bias : shapes.logits });
    if (!(index >= 0 && index < tokens)) {
      throw new RangeError(`Cannot sample into place ${index} of '${io.tokens.label}' as it has ${tokens}`);
    }
    const { topP, minP, repetitionPenalty } = rule, topK = rule.topK < vocab ? rule.topK : 0;
    const temperature = rule.temperature && Math.min(Math.max(rule.temperature, COLDEST), HOTTEST);
    const counted = topK > 0 ? PASSES : 0, passes = counted + (topP < 1 ? PASSES : 0);
    const truncates = temperature > 0 && (passes > 0 || minP > 0);
    const params = {
      vocab,
      groups,
      biased: io.bias ? 1 : 0,
      penalty: repetitionPenalty,
      temperature,
      topK,
      topP,
      margin: Math.max(temperature * Math.log(minP), -3.4e38), // at minP 0 it lets all pass
      truncated: 0,
      counted,
      passIndex: 0,
      seed,
      step,
      index,
    };
    const all = { ...rest, bias };
    this.scan.encode(commands, all, params, [groups]);
    if (truncates) {
      for (let passIndex = 0; passIndex < passes; passIndex++) {
        this.narrow.encode(commands, all, { ...params, passIndex }, [groups]);
      }
      params.truncated = 1;
      this.scan.encode(commands, all, { ...params, passIndex: passes }, [groups]);
    }
    this.pick.encode(commands, all, params, [1]);
  }
}
