import { pairStages } from "../src/core/codec.ts";
import { toF16Array } from "../src/core/f16.ts";
import { moreRoom, moreStarts } from "../src/core/pack.ts";
import { codeTierShapes } from "../src/core/shapes.ts";
import { CodeTier } from "../src/kernels/code_tier.ts";
import { allocMore } from "../src/kernels/packed_codes.ts";
import { random } from "./_attn.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu } = await bench(), tokens = 2048, heads = 4, codeBlocks = tokens / 32;
const codec = { ...pairStages(64, 12, false), base: 5 };
const starts = moreStarts(codec, new Array(heads).fill(moreRoom(tokens, 0.25)), codeBlocks), more = starts[heads]!;
const shapes = codeTierShapes({ codec, heads, capacity: tokens, scales: tokens, more });
using residual = random(gpu, "residual", "f32", shapes.residual);
using scales = gpu.upload("scales", "f16", shapes.scales, toF16Array(new Float32Array(tokens).fill(1)));
using fields = gpu.alloc("fields", "u32", shapes.fields), all = gpu.alloc("all", "u32", shapes.all);
using raw = gpu.alloc("raw", "u32", shapes.raw), further = allocMore(gpu, starts);
const op = await CodeTier.create(gpu, codec);
// Squares of 64 normal deviates sum up to more than 71.3 in a quarter of all cases.
for (const [share, threshold] of [["none", 1e4], ["a quarter", 71.3]] as const) {
  using thresholds = gpu.upload("thresholds", "f32", shapes.thresholds, new Float32Array(heads).fill(threshold));
  const io = { residual, scales, thresholds, fields, all, raw, more: further };
  await time(
    `code_tier 4 heads of 64, ${share} picked`,
    traffic({ residual, scales }),
    (c) => op.encode(c, io, { tokens, block: 0, codeBlocks, held: 0 }),
  );
}
