/** Encoding a layer's keys of an 8B shape and of the bundled model's, greedily, by beams and in a metric, in million tokens/s. */
import { codeBits, type CodecShape, pairStages, stageRows } from "../src/core/codec.ts";
import { Encoder } from "../src/codebook/encode.ts";
import { metricRoots } from "../src/codebook/metric.ts";
import { Rng } from "../src/core/rng.ts";
import { bench, time } from "./_harness.ts";

const { gpu, software } = await bench(), rng = new Rng(1);
const sub: CodecShape = {
  headDim: 128,
  stages: [...pairStages(128, 2, false).stages, { kind: "sub", pairs: 16 }, { kind: "sub", pairs: 16 }],
};
const plain = { beam: 1, metric: false, chunk: 2048 };
const cases = [
  ["8B, 11 stages", 8, pairStages(128, 11, true), plain],
  ["8B, 21 stages", 8, pairStages(128, 21, true), { ...plain, chunk: 8192 }],
  ["8B, 2 and 2 of 16", 8, sub, plain],
  ["8B, 11 untied", 8, pairStages(128, 11, false), { ...plain, metric: true }],
  ["8B, 11 untied", 8, pairStages(128, 11, false), { ...plain, beam: 4 }],
  ["28M, 10 untied", 4, pairStages(64, 10, false), plain],
  ["28M, 10 untied", 4, pairStages(64, 10, false), { ...plain, beam: 4, metric: true }],
  ["28M, 10 untied", 4, pairStages(64, 10, false), { ...plain, beam: 8, metric: true }],
] as const;
for (const [name, kvHeads, codec, { beam, metric, chunk }] of cases) {
  const { headDim } = codec, tokens = software ? 64 : 2 ** 16, dims = { kvHeads, headDim };
  using encoder = await Encoder.create(gpu, dims, codec, { form: "cache", chunk: Math.min(chunk, tokens), beam });
  const words = codec.stages.map((stage) =>
    Uint16Array.from({ length: kvHeads * stageRows(stage) * headDim }, () => rng.u32() & 0x83ff | 0x2400)
  );
  const ones = metric ? metricRoots(new Float64Array(kvHeads * headDim ** 2), headDim) : undefined;
  using table = encoder.table(words, ones), source = gpu.alloc("source", "u32", [kvHeads, tokens, headDim / 2]);
  const { codes, scales } = encoder.allocCodes(tokens), io = { source, codes, scales };
  using _codes = codes, _scales = scales;
  const bytes = tokens * kvHeads * (2 * headDim + codeBits(codec) / 8);
  const label = `encode ${name}, beam ${beam}${metric ? ", metric" : ""}, chunks of ${chunk}`;
  const { medianUs } = await time(label, bytes, (c) => encoder.encode(c, table, io, { tokens }), {
    repetitions: software ? 2 : 10,
  });
  console.log(`  ${(tokens / medianUs).toFixed(3)} million tokens/s`);
}
