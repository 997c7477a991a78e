/** A step's attention in one dispatch and a merge, after the same by the three kernels that it takes the place of. */
import { ropeTableRows } from "../src/core/rope_table.ts";
import { attnStepShapes, ropeStoreShapes } from "../src/core/shapes.ts";
import { AttnDecode } from "../src/kernels/attn_decode.ts";
import { AttnMerge } from "../src/kernels/attn_merge.ts";
import { AttnStep } from "../src/kernels/attn_step.ts";
import { RopeStore } from "../src/kernels/rope_store.ts";
import { random } from "./_attn.ts";
import { bench, ROTATE_BYTES, time } from "./_harness.ts";

const { gpu, software } = await bench();
const small = { qHeads: 8, kvHeads: 4, headDim: 64 }, large = { qHeads: 32, kvHeads: 8, headDim: 128 };
const cases = software ? [[small, 256]] as const : [
  ...[1, 64, 128, 256, 512, 8192].map((seen) => [small, seen] as const),
  ...[1, 64, 128, 256, 8192, 32_768, 131_072].map((seen) => [large, seen] as const),
];
for (const [heads, seen] of cases) {
  const { qHeads, kvHeads, headDim } = heads, step = await AttnStep.create(gpu, heads), { states } = step.variant;
  const store = await RopeStore.create(gpu, heads), decode = await AttnDecode.create(gpu, heads);
  const merge = await AttnMerge.create(gpu, headDim), position = seen - 1;
  const dims = { ...heads, tokens: 1, capacity: seen, states, tableRows: ropeTableRows(seen) };
  const shapes = attnStepShapes(dims), bytes = 2 * 2 * kvHeads * seen * headDim;
  const copies = Math.min(64, Math.ceil((software ? 2 ** 22 : ROTATE_BYTES) / bytes)), chain = Math.min(16, copies);
  using stack = new DisposableStack();
  const make = (label: string, dtype: "f32" | "u32", shape: readonly number[]) =>
    stack.use(random(gpu, label, dtype, shape));
  const qkv = make("qkv", "f32", shapes.qkv), ropeTable = make("rope table", "f32", shapes.ropeTable);
  const partialO = make("partial_o", "f32", shapes.partialO), partialMd = make("partial_md", "f32", shapes.partialMd);
  const q = make("q", "f32", ropeStoreShapes(dims).q), out = make("out", "f32", [qHeads, headDim]);
  const whole = { partialO: out.view(0, [1, qHeads, headDim]), partialMd: partialMd.view(0, [1, qHeads, 2]) };
  const caches = Array.from({ length: copies }, () => ({
    keys: make("keys", "u32", shapes.keys),
    values: make("values", "u32", shapes.values),
  }));
  const about = `${qHeads}/${kvHeads} of ${headDim}, seen=${seen}, ${chain} in a row`,
    at = { position, slot: position };
  const cacheOf = (i: number, j: number) => caches[(i * chain + j) % copies]!;
  await time(`rope_store, attn_decode, attn_merge ${about}`, bytes * chain, (commands, i) => {
    for (let j = 0; j < chain; j++) {
      const cache = cacheOf(i, j);
      store.encode(commands, { qkv, ropeTable, q, ...cache }, { tokens: 1, ...at });
      const splits = decode.encode(commands, { q, ...cache, partialO, partialMd }, { start: 0, seen });
      merge.encode(commands, { partialO, partialMd, out }, { rows: qHeads, splits, headDim });
    }
  });
  for (const splits of new Set([step.splits(position), ...software ? [] : [1, Math.ceil(seen / 64)]])) {
    if (splits > states || splits === 1 && seen > 512) continue;
    await time(`attn_step ${about}, splits=${splits}`, bytes * chain, (commands, i) => {
      for (let j = 0; j < chain; j++) {
        const io = { qkv, ropeTable, ...cacheOf(i, j) };
        if (splits === 1) step.encode(commands, { ...io, ...whole }, { position, splits });
        else {
          step.encode(commands, { ...io, partialO, partialMd }, { position, splits });
          merge.encode(commands, { partialO, partialMd, out }, { rows: qHeads, splits, headDim });
        }
      }
    });
  }
}
