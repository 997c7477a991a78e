/** Encoding an 8B-shaped layer's keys: the kernel alone, and all that `Encoder` does, in million tokens a second. */
import { codeBits, type CodecShape, pairStages, stageRows } from "../src/core/codec.ts";
import { Encoder } from "../src/codebook/encode.ts";
import { Rng } from "../src/core/rng.ts";
import { bench, time } from "./_harness.ts";

const { gpu } = await bench(), software = /llvmpipe|swiftshader/i.test(gpu.description), rng = new Rng(1);
const sub: CodecShape = {
  headDim: 128,
  stages: [...pairStages(128, 2, false).stages, { kind: "sub", pairs: 16 }, { kind: "sub", pairs: 16 }],
};
const cases = [["11 stages", pairStages(128, 11, true)], ["21 stages", pairStages(128, 21, true)], [
  "2 and 2 of 16",
  sub,
]] as const;
for (const [name, codec] of cases) {
  for (const chunk of [2048, 8192]) {
    const tokens = software ? 256 : 2 ** 16, dims = { kvHeads: 8, headDim: 128 };
    using encoder = await Encoder.create(gpu, dims, codec, { form: "cache", chunk: Math.min(chunk, tokens) });
    const words = codec.stages.map((stage) =>
      Uint16Array.from({ length: 8 * stageRows(stage) * 128 }, () => rng.u32() & 0x83ff | 0x2400)
    );
    using table = encoder.table(words), source = gpu.alloc("source", "u32", [8, tokens, 64]);
    const { codes, scales } = encoder.allocCodes(tokens), io = { source, codes, scales };
    using _codes = codes, _scales = scales;
    const bytes = tokens * 8 * (2 * 128 + codeBits(codec) / 8);
    const label = `code_encode 8B keys, ${name}, chunks of ${chunk}`;
    const { medianUs } = await time(label, bytes, (c) => encoder.encode(c, table, io, { tokens }), {
      repetitions: software ? 2 : 10,
    });
    console.log(`  ${(tokens / medianUs).toFixed(3)} million tokens/s`);
  }
}
