import { pairStages } from "../src/core/codec.ts";
import { codeBeamShapes } from "../src/core/shapes.ts";
import { CodeBeam } from "../src/kernels/code_beam.ts";
import { encodeFields } from "../src/kernels/code_encode.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench(), capacity = software ? 32 : 8192;
for (const [heads, headDim, stages] of [[4, 64, 10], [8, 128, 11]] as const) {
  for (const beam of [1, 4, 8]) {
    const codec = pairStages(headDim, stages, false), shapes = codeBeamShapes({ codec, heads, capacity });
    using residual = gpu.alloc("residual", "f32", shapes.residual), table = gpu.alloc("table", "u32", shapes.table);
    using gram = gpu.alloc("gram", "f32", shapes.gram), raw = gpu.alloc("raw", "u32", shapes.raw);
    using fields = gpu.upload("fields", "u32", shapes.fields, encodeFields(codec));
    const op = await CodeBeam.create(gpu, codec, beam), io = { residual, table, gram, fields, raw };
    const label = `code_beam ${heads} heads of ${headDim}, ${stages} stages, beam ${beam}, ${capacity} tokens`;
    await time(label, traffic(io), (c) => op.encode(c, io, capacity));
  }
}
