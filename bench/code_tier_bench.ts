import { pairStages } from "../src/core/codec.ts";
import { moreRoom, moreStarts } from "../src/core/pack.ts";
import { codeTierShapes } from "../src/core/shapes.ts";
import { CodeTier } from "../src/kernels/code_tier.ts";
import { allocMore } from "../src/kernels/packed_codes.ts";
import { Rng } from "../src/core/rng.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu } = await bench(), tokens = 2048, heads = 4, codeBlocks = tokens / 32;
const codec = { ...pairStages(64, 12, false), base: 5 };
const starts = moreStarts(codec, new Array(heads).fill(moreRoom(tokens, 0.25)), codeBlocks), more = starts[heads]!;
const shapes = codeTierShapes({ codec, heads, capacity: tokens, more });
const rng = new Rng(1);
using fields = gpu.alloc("fields", "u32", shapes.fields), all = gpu.alloc("all", "u32", shapes.all);
using raw = gpu.alloc("raw", "u32", shapes.raw), further = allocMore(gpu, starts);
const op = await CodeTier.create(gpu, codec);
for (const [share, masks] of [["none", () => 0], ["a quarter", () => rng.u32() & rng.u32()]] as const) {
  using missed = gpu.upload("missed", "u32", shapes.missed, Uint32Array.from({ length: heads * tokens / 32 }, masks));
  const io = { missed, fields, all, raw, more: further };
  await time(
    `code_tier 4 heads of 64, ${share} picked`,
    traffic({ missed, all }),
    (c) => op.encode(c, io, { tokens, block: 0, codeBlocks, held: 0 }),
  );
}
