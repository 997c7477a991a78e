/** Coding by beams, of residuals and words that differ: where many ways tie, the search takes longer. */
import { pairStages } from "../src/core/codec.ts";
import { Rng } from "../src/core/rng.ts";
import { codeBeamShapes } from "../src/core/shapes.ts";
import { CodeBeam } from "../src/kernels/code_beam.ts";
import { encodeFields } from "../src/kernels/code_encode.ts";
import { CodeGram } from "../src/kernels/code_gram.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench(), capacity = software ? 32 : 8192, rng = new Rng(1);
for (const [heads, headDim, stages] of [[4, 64, 10], [8, 128, 11]] as const) {
  for (const beam of [1, 4, 8]) {
    const codec = pairStages(headDim, stages, false), shapes = codeBeamShapes({ codec, heads, capacity });
    const numbers = Float32Array.from({ length: heads * capacity * headDim }, () => rng.uniform() - 0.5);
    const words = Uint32Array.from(
      { length: heads * stages * 64 * headDim },
      () => rng.u32() & 0x87ff87ff | 0x28002800,
    );
    using residual = gpu.upload("residual", "f32", shapes.residual, numbers);
    using table = gpu.upload("table", "u32", shapes.table, words);
    using gram = gpu.alloc("gram", "f32", shapes.gram), raw = gpu.alloc("raw", "u32", shapes.raw);
    const make = await CodeGram.create(gpu, codec), commands = gpu.commands();
    make.encode(commands, { table, gram }, heads);
    commands.submit();
    using fields = gpu.upload("fields", "u32", shapes.fields, encodeFields(codec));
    const op = await CodeBeam.create(gpu, codec, beam), io = { residual, table, gram, fields, raw };
    const label = `code_beam ${heads} heads of ${headDim}, ${stages} stages, beam ${beam}, ${capacity} tokens`;
    await time(label, traffic(io), (c) => op.encode(c, io, capacity));
  }
}
