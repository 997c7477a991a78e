import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { klRowsShapes } from "../../src/core/shapes.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { chooseKlRowsLanes, KlRows } from "../../src/kernels/kl_rows.ts";
import { klRowsRef } from "../../src/ref/kl_rows.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { onEachText, poisoned } from "../_gpu.ts";

async function run(gpu: Gpu, p: Float32Array, q: Float32Array, tokens: number, lanes?: number): Promise<Float32Array> {
  const shapes = klRowsShapes({ tokens, vocab: p.length / tokens });
  using pT = gpu.upload("p", "f32", shapes.p, p);
  using qT = gpu.upload("q", "f32", shapes.q, q);
  using out = poisoned(gpu, "out", shapes.out);
  const op = await KlRows.create(gpu, p.length / tokens, { lanes }), commands = gpu.commands();
  op.encode(commands, { p: pT, q: qT, out });
  commands.submit();
  return await gpu.readF32(out);
}

Deno.test("kl_rows", (t) =>
  onEachText(t, async (gpu, t) => {
    for (const [tokens, vocab, lanes] of [[3, 1, 256], [5, 7, 64], [4, 8192, 256], [2, 128256, undefined]] as const) {
      for (const apart of [3, 0.1, 1e-3]) {
        await t.step(
          `is as accurate as f32 at ${tokens}x${vocab}, ${apart} apart, ${lanes ?? "chosen"} lanes`,
          async () => {
            const rng = new Rng(6), p = normals(rng, tokens * vocab, 3);
            const q = p.map((x) => x + apart * rng.normal() + 0.5);
            const actual = await run(gpu, p, q, tokens, lanes), exact = klRowsRef(p, q, tokens);
            assertAsAccurateAs(actual, klRowsRef(p, q, tokens, Math.fround), exact);
            // Better than f32 by the definition: small divergences keep their digits.
            actual.forEach((kl, t) => assertAlmostEquals(kl, exact[t]!, 1e-4 * exact[t]! + 1e-12));
          },
        );
      }
    }
    await t.step("is 0 for equal rows, and for rows that differ by a constant", async () => {
      const p = normals(new Rng(7), 3000, 4), q = p.map((x) => x + 4);
      for (const kl of await run(gpu, p, p, 3)) assertEquals(kl, 0);
      for (const kl of await run(gpu, p, q, 3)) assert(kl >= 0 && kl < 1e-11, `${kl}`);
    });
    await t.step("bears tokens that cannot be, and huge logits", async () => {
      const p = new Float32Array(5 * 500), q = new Float32Array(5 * 500);
      p.fill(-Infinity, 100, 500); // p is uniform over 100 of q's 500
      p.fill(-Infinity, 500, 700);
      q.fill(-Infinity, 500, 600).fill(-Infinity, 600, 700); // both uniform over the same 300
      q[1200] = -Infinity; // p can be what q cannot
      p[1500] = 3e38;
      q[1500] = 200;
      p.set([-70, -80, -81, -82, -86, -92, -97, -200, -3e38], 2100); // q has what p all but has not, in every degree
      const [part, same, never, huge, degrees] = await run(gpu, p, q, 5);
      assertAlmostEquals(part!, Math.log(5), 1e-5);
      assertEquals(same, 0);
      assertEquals(never, Infinity);
      assert(huge! >= 0 && huge! < 1e-6, `${huge}`);
      assertAlmostEquals(degrees!, klRowsRef(p.subarray(2000), q.subarray(2000), 1)[0]!, 1e-6);
    });
    await t.step("rejects a wrong shape by name", async () => {
      const op = await KlRows.create(gpu, 8), x = gpu.alloc("x", "f32", [2, 8]), y = gpu.alloc("y", "f32", [2, 4]);
      assertThrows(() => op.encode(gpu.commands(), { p: x, q: y, out: x }), TypeError, "'q' must have shape [2,8]");
    });
  }));

Deno.test("chooseKlRowsLanes() stays within the device", () => {
  for (const vocab of [1, 8192, 128256]) {
    for (const most of [64, 256, 1024]) assert(chooseKlRowsLanes(vocab, most) <= most);
  }
});

Deno.test("klRowsRef() agrees with a case by hand", () => {
  const p = Float32Array.from([1, 1], Math.log), q = Float32Array.from([1, 3], Math.log);
  assertAlmostEquals(klRowsRef(p, q, 1)[0]!, 0.5 * Math.log(2) + 0.5 * Math.log(2 / 3), 1e-6);
});
