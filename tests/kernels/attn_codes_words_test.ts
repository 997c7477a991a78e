import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { attnCodesWordsShapes } from "../../src/core/shapes.ts";
import { AttnCodesWords } from "../../src/kernels/attn_codes_words.ts";
import { chooseHeads } from "../../src/kernels/packed_codes.ts";
import { attnCodesWordsRef } from "../../src/ref/attn_codes_words.ts";
import { assertAsAccurateAs } from "../_assert.ts";
import { onEachText, poisoned } from "../_gpu.ts";
import { packedSample, pairs, uploadPacked } from "./_codes.ts";

Deno.test("attn_codes_words", (t) =>
  onEachText(t, async (gpu, t) => {
    for (
      const [qHeads, kvHeads, headDim, splits] of [[8, 2, 128, 1], [7, 1, 80, 37], [2, 1, 256, 6], [
        3,
        3,
        64,
        16,
      ]] as const
    ) {
      await t.step(`is as accurate as f32 at Q=${qHeads} K=${kvHeads} D=${headDim} I=${splits}`, async () => {
        const dims = { qHeads, kvHeads, codec: pairs(headDim, 2) }, heads = chooseHeads(dims), lookups = 4;
        const op = await AttnCodesWords.create(gpu, dims, heads), rng = new Rng(splits), room = splits + 1;
        const sample = packedSample(dims.codec, kvHeads, 1, 6, { isOnGrid: false }),
          { table } = uploadPacked(gpu, sample);
        const shapes = attnCodesWordsShapes({ ...dims, heads, splits: room, states: op.states + 1 });
        const group = qHeads / kvHeads, chunks = Math.ceil(group / heads), size = 64 * lookups;
        const mass = Float32Array.from({ length: splits * qHeads * size }, () => rng.uniform());
        const md = Float32Array.from({ length: splits * qHeads * 2 }, (_, i) =>
          i % 2 ? 9 * rng.uniform() : 4 * rng.normal());
        const massData = new Float32Array(room * kvHeads * chunks * heads * size).fill(NaN);
        const mdData = new Float32Array(room * kvHeads * chunks * heads * 2).fill(NaN);
        for (let i = 0; i < splits; i++) {
          for (let h = 0; h < qHeads; h++) {
            const k = Math.floor(h / group), own = h % group, from = i * qHeads + h;
            const at = (i * kvHeads + k) * chunks + Math.floor(own / heads);
            mdData.set(md.subarray(2 * from, 2 * from + 2), 2 * (at * heads + own % heads));
            for (let row = 0; row < size; row++) {
              massData[(at * size + row) * heads + own % heads] = mass[from * size + row]!;
            }
          }
        }
        using masses = gpu.upload("mass", "f32", shapes.mass, massData);
        using massMd = gpu.upload("mass_md", "f32", shapes.massMd, mdData);
        using partialO = poisoned(gpu, "o", shapes.partialO), partialMd = poisoned(gpu, "md", shapes.partialMd);
        const commands = gpu.commands(), io = { mass: masses, massMd, table, partialO, partialMd };
        assertEquals(op.encode(commands, io, { splits, state: 1 }), lookups);
        commands.submit();
        const all = { qHeads, kvHeads, headDim, lookups };
        const want = attnCodesWordsRef(mass, md, sample.words, all);
        const naive = attnCodesWordsRef(mass, md, sample.words, all, Math.fround);
        assertAsAccurateAs((await gpu.readF32(partialO)).subarray(qHeads * headDim), naive.o, want.o);
        assertAsAccurateAs((await gpu.readF32(partialMd)).subarray(2 * qHeads), naive.md, want.md);
        assertThrows(
          () =>
            op.encode(commands, io, { splits, state: 2 }),
          RangeError,
          "states 2 to 5",
        );
      });
    }
  }));

Deno.test("attnCodesWordsRef() weighs words by their mass", () => {
  const words = new Float64Array(2 * 64 * 2), mass = new Float32Array(2 * 128); // two splits, two lookups, D = 2
  words.set([3, 5], 2 * 7); // lookup 0, word 7
  words.set([-1, 2], 2 * (64 + 9)); // lookup 1, word 9
  mass[7] = 2;
  mass[128 + 64 + 9] = 4;
  const md = Float32Array.of(1, 10, 0, 20), half = Math.exp(-1);
  const { o, md: out } = attnCodesWordsRef(mass, md, words, { qHeads: 1, kvHeads: 1, headDim: 2, lookups: 2 });
  [6, 10, -4 * half, 8 * half].forEach((x, i) => assertAlmostEquals(o[i]!, x, 1e-12));
  [1, 10 + 20 * half, 1, 0].forEach((x, i) => assertAlmostEquals(out[i]!, x, 1e-12));
});
