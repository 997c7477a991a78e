import { attnPrefillShapes } from "../src/core/shapes.ts";
import {
  AttnPrefill,
  attnPrefillBytes,
  attnPrefillLanes,
  type AttnPrefillVariant,
  chooseAttnPrefill,
} from "../src/kernels/attn_prefill.ts";
import { random } from "./_attn.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench();
const heads = { qHeads: 32, kvHeads: 8, headDim: 128 }, chosen = chooseAttnPrefill(heads.headDim, gpu.limits);

/** New tokens, what the first sees, and variants; the last is a chunk with a long past. */
const cases: [tokens: number, seen: number, variants: AttnPrefillVariant[]][] = software ? [[64, 1, [chosen]]] : [
  [512, 1, [chosen]],
  [2048, 1, [chosen]],
  [8192, 1, [
    chosen,
    ...[[64, 16, 16], [64, 16, 32], [32, 32, 32], [32, 16, 16], [128, 8, 8]].map(([rows, slice, held]) => ({
      rows: rows!,
      slice: slice!,
      held: held!,
    })),
  ]],
  [16, 32768, [chosen]],
];
for (const [tokens, seen, variants] of cases) {
  const dims = { ...heads, tokens, capacity: seen + tokens - 1 }, shapes = attnPrefillShapes(dims);
  using q = random(gpu, "q", "f32", shapes.q), out = gpu.alloc("out", "f32", shapes.out);
  using keys = random(gpu, "keys", "u32", shapes.keys), values = random(gpu, "values", "u32", shapes.values);
  using md = gpu.alloc("md", "f32", shapes.md);
  const io = { q, keys, values, out, md }, pairs = tokens * seen + tokens * (tokens - 1) / 2;
  for (const variant of variants) {
    const { maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup } = gpu.limits;
    if (attnPrefillBytes(variant, heads.headDim) > maxComputeWorkgroupStorageSize) continue;
    if (attnPrefillLanes(variant, heads.headDim) > maxComputeInvocationsPerWorkgroup) continue;
    const op = await AttnPrefill.create(gpu, heads, { variant }), { rows, slice, held } = variant;
    await time(
      `attn_prefill T=${tokens} seen=${seen} rows=${rows} slice=${slice} held=${held}`,
      traffic(io),
      (commands) => op.encode(commands, io, { tokens, start: 0, seen }),
      { flops: 4 * heads.headDim * heads.qHeads * pairs, repetitions: software ? 3 : 10 },
    );
  }
}

// Two passes with masks, as evaluation makes them, beside the causal one of the same tokens.
{
  const tokens = software ? 64 : 4096, dims = { ...heads, tokens, capacity: tokens, states: 2 };
  const shapes = attnPrefillShapes(dims), window = 64, sinks = 4;
  using q = random(gpu, "q", "f32", shapes.q), out = gpu.alloc("out", "f32", shapes.out);
  using keys = random(gpu, "keys", "u32", shapes.keys), values = random(gpu, "values", "u32", shapes.values);
  using md = gpu.alloc("md", "f32", shapes.md);
  for (const mask of ["near", "far"] as const) {
    const op = await AttnPrefill.create(gpu, heads, { mask }), io = { q, keys, values, out, md };
    await time(`attn_prefill T=${tokens} ${mask} window=${window} sinks=${sinks}`, traffic(io), (commands) => {
      op.encode(commands, io, { tokens, start: 0, seen: 1, window, sinks });
    }, { repetitions: software ? 3 : 10 });
  }
}
