import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { codeScoresShape } from "../../src/core/shapes.ts";
import { AttnCodesValues, chooseAttnCodesValues } from "../../src/kernels/attn_codes_values.ts";
import { attnCodesValuesRef } from "../../src/ref/attn_codes_values.ts";
import { attnMergeRef } from "../../src/ref/attn_merge.ts";
import { codeDecodeRef } from "../../src/ref/code_decode.ts";
import { exact, type Round } from "../../src/ref/round.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { onEachText, poisoned } from "../_gpu.ts";
import { codec, packedSample, uploadPacked } from "./_codes.ts";

const DIMS = { qHeads: 4, kvHeads: 2, codec: codec(64, 8, "p") };

Deno.test("attn_codes_values", (t) =>
  onEachText(t, async (gpu, t) => {
    const { headDim } = DIMS.codec, chosen = chooseAttnCodesValues(DIMS, gpu), variant = { ...chosen, lanes: 64 };
    await t.step("is as accurate as f32 in splits, the last of them empty", async () => {
      const tokens = 700, first = 32, capacity = 704, sample = packedSample(DIMS.codec, 2, 732, 21);
      const op = await AttnCodesValues.create(gpu, DIMS, { variant: { ...variant, workgroups: 20 } });
      const splits = op.states(tokens), packed = uploadPacked(gpu, sample), states = splits + 1;
      assertEquals(splits, 10); // of 128 tokens, of which six have some
      const all = normals(new Rng(8), 2 * capacity * 2, 0.15); // [K][1][capacity][2]
      using scores = gpu.upload("scores", "f32", codeScoresShape({ ...DIMS, heads: 2, capacity }), all);
      using partialO = poisoned(gpu, "o", [states, 4, headDim]), partialMd = poisoned(gpu, "md", [states, 4, 2]);
      const commands = gpu.commands();
      assertEquals(
        op.encode(commands, { ...packed, scores, partialO, partialMd }, { first, tokens, state: 1 }),
        splits,
      );
      commands.submit();
      const o = (await gpu.readF32(partialO)).subarray(4 * headDim), md = (await gpu.readF32(partialMd)).subarray(8);
      assertEquals([...md.subarray(-8)], new Array(4).fill([-3.4028234663852886e38, 0]).flat());
      assertEquals(o.subarray(-4 * headDim), new Float32Array(4 * headDim));
      const scored = Float32Array.from({ length: 4 * tokens }, (_, i) => {
        const h = Math.floor(i / tokens);
        return all[(Math.floor(h / 2) * capacity + i % tokens) * 2 + h % 2]!;
      });
      const want = (round: Round) => {
        const dims = { ...DIMS, headDim }, values = codeDecodeRef(sample, { first, tokens }, round);
        const states = attnCodesValuesRef(scored, values, dims, round);
        return states.o.map((x, i) => round(x / states.md[2 * Math.floor(i / headDim) + 1]!));
      };
      assertAsAccurateAs(attnMergeRef(o, md, { rows: 4, splits, headDim }), want(Math.fround), want(exact));
    });
    await t.step("rejects states past the room", async () => {
      const op = await AttnCodesValues.create(gpu, DIMS),
        packed = uploadPacked(gpu, packedSample(DIMS.codec, 2, 32, 1));
      using scores = gpu.alloc("scores", "f32", codeScoresShape({ ...DIMS, heads: 2, capacity: 32 }));
      using partialO = poisoned(gpu, "o", [1, 4, headDim]), partialMd = poisoned(gpu, "md", [1, 4, 2]);
      const io = { ...packed, scores, partialO, partialMd };
      assertThrows(() => op.encode(gpu.commands(), io, { tokens: 32, state: 1 }), RangeError, "states 1 to 1");
    });
  }));

Deno.test("attnCodesValuesRef() agrees with a softmax computed at once", () => {
  const values = Float64Array.of(3, 5, -7), scores = [0.5, -0.5, 1];
  const { o, md } = attnCodesValuesRef(scores, values, { qHeads: 1, kvHeads: 1, headDim: 1 });
  const e = scores.map(Math.exp);
  assertAlmostEquals(o[0]! / md[1]!, (3 * e[0]! + 5 * e[1]! - 7 * e[2]!) / (e[0]! + e[1]! + e[2]!), 1e-12);
  assertEquals(md[0], 1);
});
