import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import type { AttnMergeDims } from "../../src/core/shapes.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { AttnMerge, type AttnMergeVariant, chooseAttnMerge } from "../../src/kernels/attn_merge.ts";
import { attnMergeRef } from "../../src/ref/attn_merge.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { onEachText, poisoned } from "../_gpu.ts";

const EMPTY = -3.4028234663852886e38;

function sample({ rows, splits, headDim }: AttnMergeDims, seed: number): { o: Float32Array; md: Float32Array } {
  const rng = new Rng(seed), o = normals(rng, splits * rows * headDim);
  const md = Float32Array.from(
    { length: 2 * splits * rows },
    (_, i) => i % 2 ? 0.5 + 50 * rng.uniform() : 12 * rng.normal(),
  );
  for (let i = 0; i < splits * rows; i += 5) { // splits that saw nothing
    md.set([EMPTY, 0], 2 * i);
    o.fill(0, i * headDim, (i + 1) * headDim);
  }
  return { o, md };
}

async function run(
  gpu: Gpu,
  dims: AttnMergeDims,
  o: Float32Array,
  md: Float32Array,
  variant?: AttnMergeVariant,
): Promise<Float32Array> {
  const { rows, splits, headDim } = dims, room = splits + 1;
  const op = await AttnMerge.create(gpu, headDim, { splits, variant });
  using partialO = poisoned(gpu, "partial_o", [room, rows, headDim]);
  using partialMd = poisoned(gpu, "partial_md", [room, rows, 2]);
  gpu.write(partialO, o);
  gpu.write(partialMd, md);
  using out = poisoned(gpu, "out", [rows, headDim]);
  const commands = gpu.commands();
  op.encode(commands, { partialO, partialMd, out }, dims);
  commands.submit();
  return await gpu.readF32(out);
}

Deno.test("attn_merge", (t) =>
  onEachText(t, async (gpu, t) => {
    for (
      const [rows, splits, headDim] of [[1, 1, 64], [3, 7, 128], [32, 65, 128], [2, 300, 80]] as const
    ) {
      for (const variant of [undefined, { lanes: 32, quads: 8 }, { lanes: 256, quads: 32 }]) {
        const dims = { rows, splits, headDim };
        await t.step(`is as accurate as f32 at ${JSON.stringify({ ...dims, ...variant })}`, async () => {
          const { o, md } = sample(dims, 7);
          const actual = await run(gpu, dims, o, md, variant);
          assertAsAccurateAs(actual, attnMergeRef(o, md, dims, Math.fround), attnMergeRef(o, md, dims));
        });
      }
    }
    await t.step("reaches rows past a grid's width", async () => {
      const dims = { rows: 32769, splits: 2, headDim: 8 }, { o, md } = sample(dims, 7);
      const actual = await run(gpu, dims, o, md);
      assertAsAccurateAs(actual, attnMergeRef(o, md, dims, Math.fround), attnMergeRef(o, md, dims));
    });
    await t.step("gives zeros when every split is empty", async () => {
      const dims = { rows: 2, splits: 3, headDim: 8 }, md = new Float32Array(12).map((_, i) => i % 2 ? 0 : EMPTY);
      assertEquals(await run(gpu, dims, new Float32Array(48), md), new Float32Array(16));
    });
    await t.step("rejects a wrong shape by name", async () => {
      const op = await AttnMerge.create(gpu, 64), x = gpu.alloc("x", "f32", [1, 1, 32]);
      const io = { partialO: x, partialMd: x, out: x }, dims = { rows: 1, splits: 1, headDim: 64 };
      assertThrows(() => op.encode(gpu.commands(), io, dims), TypeError, "'partialO' must have shape [1,1,64]");
    });
    await t.step("rejects more states than there are", async () => {
      const op = await AttnMerge.create(gpu, 8), dims = { rows: 1, splits: 2, headDim: 8 };
      const [o, md, out] = [[1, 1, 8], [1, 1, 2], [1, 8]].map((shape) => gpu.alloc("x", "f32", shape));
      const io = { partialO: o!, partialMd: md!, out: out! };
      assertThrows(() => op.encode(gpu.commands(), io, dims), RangeError, "must be 1 to 1: they are 2");
    });
  }));

Deno.test("attnMergeRef() agrees with a softmax computed at once", () => {
  const scores = [0.3, -1.2, 2.5, 0.1], values = [1, -2, 0.5, 4];
  const weights = scores.map(Math.exp),
    want = weights.reduce((s, w, i) => s + w * values[i]!, 0) / weights.reduce((a, b) => a + b);
  const state = (at: number[]) => {
    const m = Math.max(...at.map((i) => scores[i]!));
    return {
      m,
      d: at.reduce((s, i) => s + Math.exp(scores[i]! - m), 0),
      o: at.reduce((s, i) => s + Math.exp(scores[i]! - m) * values[i]!, 0),
    };
  };
  const parts = [state([0, 1]), state([2, 3])];
  const got = attnMergeRef(Float32Array.from(parts, (p) => p.o), Float32Array.from(parts.flatMap((p) => [p.m, p.d])), {
    rows: 1,
    splits: 2,
    headDim: 1,
  });
  assertAlmostEquals(got[0]!, want, 1e-6);
});

Deno.test("chooseAttnMerge() stays within the device, in powers of two", () => {
  for (let headDim = 32; headDim <= 256; headDim += 8) {
    for (const most of [64, 128, 1024]) {
      for (const splits of [1, 2, 17, 64, 512]) {
        const { lanes, quads } = chooseAttnMerge(headDim, splits, most);
        assertEquals([lanes <= most, quads <= lanes, Math.log2(lanes) % 1, Math.log2(quads) % 1], [true, true, 0, 0]);
      }
    }
  }
});
