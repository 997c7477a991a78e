import { moreRoom, moreSize } from "../src/core/pack.ts";
import { codeTierShapes } from "../src/core/shapes.ts";
import { CodeTier } from "../src/kernels/code_tier.ts";
import { pairStages } from "../src/core/codec.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu } = await bench(), tokens = 2048, heads = 4, codeBlocks = tokens / 32;
const codec = { ...pairStages(64, 12, false), base: 5 };
const more = moreSize(codec, heads, codeBlocks, moreRoom(tokens, 0.25));
const shapes = codeTierShapes({ codec, heads, capacity: tokens, scales: tokens, more });
const alloc = (name: keyof typeof shapes) => gpu.alloc(name, name === "scales" ? "f16" : "u32", shapes[name]);
using residual = alloc("residual"),
  scales = alloc("scales"),
  thresholds = alloc("thresholds"),
  fields = alloc("fields");
using all = alloc("all"), raw = alloc("raw"), further = alloc("more");
const op = await CodeTier.create(gpu, codec), io = { residual, scales, thresholds, fields, all, raw, more: further };
await time(
  "code_tier 4 heads of 64, none picked",
  traffic({ residual, scales }),
  (c) => op.encode(c, io, { tokens, block: 0, codeBlocks, held: 0 }),
);
