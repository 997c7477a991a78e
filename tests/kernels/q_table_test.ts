import { assertEquals } from "@std/assert";
import { tableRows } from "../../src/core/codec.ts";
import { Rng } from "../../src/core/rng.ts";
import { qTableShapes } from "../../src/core/shapes.ts";
import { QTable } from "../../src/kernels/q_table.ts";
import { qTableRef } from "../../src/ref/q_table.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { onEachText, poisoned } from "../_gpu.ts";
import { codec, packedSample, uploadPacked } from "./_codes.ts";

Deno.test("q_table", (t) =>
  onEachText(t, async (gpu, t) => {
    for (const it of [{ qHeads: 3, kvHeads: 1, headDim: 80 }, { qHeads: 4, kvHeads: 2, headDim: 64 }]) {
      await t.step(`is as accurate as f32 at ${JSON.stringify(it)}`, async () => {
        const { qHeads, kvHeads, headDim } = it,
          shape = codec(headDim, "p", 8),
          shapes = qTableShapes({ ...it, codec: shape });
        const sample = packedSample(shape, kvHeads, 1, 5, { isOnGrid: false }),
          q = normals(new Rng(2), qHeads * headDim);
        const { table } = uploadPacked(gpu, sample), op = await QTable.create(gpu, { qHeads, kvHeads, codec: shape });
        using qs = gpu.upload("q", "f32", shapes.q, q), out = poisoned(gpu, "out", shapes.out);
        const commands = gpu.commands();
        op.encode(commands, { q: qs, table, out });
        commands.submit();
        const dims = { ...it, rows: tableRows(shape) }, want = qTableRef(q, sample.words, dims);
        assertAsAccurateAs(await gpu.readF32(out), qTableRef(q, sample.words, dims, Math.fround), want);
      });
    }
  }));

Deno.test("qTableRef() multiplies words by conjugate queries", () => {
  // conj(3 + 4i) (1 + 2i) = 11 + 2i
  const out = qTableRef(Float32Array.of(3, 4), Float64Array.of(1, 2), { qHeads: 1, kvHeads: 1, headDim: 2, rows: 1 });
  assertEquals([...out], [11, 2]);
});
