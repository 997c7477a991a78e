import { pairStages } from "../src/core/codec.ts";
import { codeSearchShapes } from "../src/core/shapes.ts";
import { elements } from "../src/gpu/tensor.ts";
import { CodeSearch } from "../src/kernels/code_search.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu } = await bench();
for (const [heads, headDim, stages] of [[4, 64, 10], [8, 128, 22]] as const) {
  const codec = pairStages(headDim, stages, false), shapes = codeSearchShapes(heads, codec);
  using table = gpu.alloc("table", "u32", shapes.table), metric = gpu.alloc("metric", "u32", shapes.metric);
  using search = gpu.alloc("search", "u32", shapes.search);
  const op = await CodeSearch.create(gpu, codec), io = { table, metric, search };
  const label = `code_search ${heads} heads of ${headDim}, ${stages} stages`;
  await time(label, traffic(io), (c) => op.encode(c, io, heads), { flops: 4 * headDim * elements(shapes.table) });
}
