import { ropeTableRows } from "../src/core/rope_table.ts";
import { ropeStoreShapes } from "../src/core/shapes.ts";
import { RopeStore } from "../src/kernels/rope_store.ts";
import { bench, time } from "./_harness.ts";

const { gpu, software } = await bench();
const heads = { qHeads: 32, kvHeads: 8, headDim: 128 }, op = await RopeStore.create(gpu, heads);
for (const tokens of software ? [1, 64] : [1, 512, 16384]) {
  const dims = { ...heads, tokens, capacity: tokens, tableRows: ropeTableRows(tokens) }, shapes = ropeStoreShapes(dims);
  using qkv = gpu.alloc("qkv", "f32", shapes.qkv), q = gpu.alloc("q", "f32", shapes.q);
  using ropeTable = gpu.alloc("rope_table", "f32", shapes.ropeTable);
  using keys = gpu.alloc("keys", "u32", shapes.keys), values = gpu.alloc("values", "u32", shapes.values);
  const bytes = qkv.byteLength + q.byteLength + keys.byteLength + values.byteLength;
  await time(
    `rope_store T=${tokens}`,
    bytes,
    (commands) => op.encode(commands, { qkv, ropeTable, q, keys, values }, { tokens, position: 0, slot: 0 }),
  );
}
