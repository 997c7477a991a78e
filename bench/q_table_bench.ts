/** Words times queries. */
import { qTableShapes } from "../src/core/shapes.ts";
import { QTable } from "../src/kernels/q_table.ts";
import { random } from "./_attn.ts";
import { CODECS, gpu, HEADS, queries, repetitions } from "./_codes.ts";
import { time, traffic } from "./_harness.ts";

using q = queries(gpu);
for (const [name, codec] of Object.entries(CODECS)) {
  const dims = { ...HEADS, codec }, shapes = qTableShapes(dims), op = await QTable.create(gpu, dims);
  using table = random(gpu, "table", "u32", shapes.table), out = gpu.alloc("out", "f32", shapes.out);
  const io = { q, table, out };
  await time(`q_table ${name}`, traffic(io), (commands) => op.encode(commands, io), { repetitions });
}
