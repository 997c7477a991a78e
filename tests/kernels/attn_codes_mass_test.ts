import { assertAlmostEquals, assertEquals } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { attnCodesMassShapes, codeScoresShape } from "../../src/core/shapes.ts";
import { AttnCodesMass, chooseAttnCodesMass } from "../../src/kernels/attn_codes_mass.ts";
import { attnCodesMassRef } from "../../src/ref/attn_codes_mass.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { onEachText, poisoned } from "../_gpu.ts";
import { codec, packedSample, pairs, uploadPacked } from "./_codes.ts";

Deno.test("attn_codes_mass", (t) =>
  onEachText(t, async (gpu, t) => {
    for (const [qHeads, isSkewed, stages] of [[7, false, 3], [2, true, 5], [1, true, 1]] as const) {
      await t.step(
        `is as accurate as f32 with ${qHeads} heads, ${stages} stages, skewed codes: ${isSkewed}`,
        async () => {
          const dims = { qHeads, kvHeads: 1, codec: pairs(64, stages) }, variant = chooseAttnCodesMass(dims, gpu)!;
          const tokens = 531, capacity = 536, { heads } = variant, chunks = Math.ceil(qHeads / heads);
          const op = await AttnCodesMass.create(gpu, dims, { ...variant, workgroups: 3 * chunks });
          const splits = op.splits(tokens), sample = packedSample(dims.codec, 1, tokens, 2, { isSkewed });
          assertEquals(splits, 3);
          const shapes = attnCodesMassShapes({ ...dims, heads, capacity, splits, codeBlocks: 17 });
          const all = normals(new Rng(8), chunks * capacity * heads, 0.15);
          using scores = gpu.upload("scores", "f32", codeScoresShape({ ...dims, heads, capacity }), all);
          using mass = poisoned(gpu, "mass", shapes.mass), massMd = poisoned(gpu, "mass_md", shapes.massMd);
          const { codes, scales } = uploadPacked(gpu, sample), commands = gpu.commands();
          op.encode(commands, { scores, codes, scales, mass, massMd }, { tokens });
          commands.submit();
          const got = await gpu.readF32(mass), md = await gpu.readF32(massMd), size = 128 * stages;
          const scored = Float32Array.from({ length: qHeads * tokens }, (_, i) => {
            const h = Math.floor(i / tokens);
            return all[(Math.floor(h / heads) * capacity + i % tokens) * heads + h % heads]!;
          });
          const want = attnCodesMassRef(scored, sample, qHeads),
            naive = attnCodesMassRef(scored, sample, qHeads, Math.fround);
          const folded = new Float64Array(qHeads * size), sums = new Float64Array(qHeads);
          for (let h = 0; h < qHeads; h++) {
            for (let i = 0; i < splits; i++) { // [I][K][chunks][lookups][64][heads]
              const state = (i * chunks + Math.floor(h / heads)) * heads + h % heads;
              const shrink = Math.exp(md[2 * state]! - want.md[2 * h]!);
              sums[h]! += shrink * md[2 * state + 1]!;
              for (let row = 0; row < size; row++) {
                const at = ((i * chunks + Math.floor(h / heads)) * size + row) * heads + h % heads;
                folded[h * size + row]! += shrink * got[at]!;
              }
            }
          }
          assertAsAccurateAs(folded, naive.mass, want.mass);
          for (let h = 0; h < qHeads; h++) assertAlmostEquals(sums[h]!, want.md[2 * h + 1]!, 1e-5 * sums[h]!);
        },
      );
    }
  }));

Deno.test("attnCodesMassRef() gives every lookup of a token its weight", () => {
  const sample = packedSample(pairs(8, 2), 1, 3, 1), scores = [0, Math.log(2), -Infinity];
  const { mass, md } = attnCodesMassRef(scores, sample, 1);
  assertAlmostEquals(md[1]!, 1.5, 1e-12);
  const want = 0.5 * sample.scales[0]! + sample.scales[1]!;
  for (let l = 0; l < 4; l++) {
    assertAlmostEquals(mass.subarray(64 * l, 64 * l + 64).reduce((a, b) => a + b), want, 1e-12);
  }
});

Deno.test("chooseAttnCodesMass() wants pair stages and what fits", () => {
  const limits = { maxComputeInvocationsPerWorkgroup: 1024, maxComputeWorkgroupStorageSize: 49152 };
  const choose = (codec: ReturnType<typeof pairs>, bytes = 49152) =>
    chooseAttnCodesMass({ qHeads: 32, kvHeads: 8, codec }, {
      limits: { ...limits, maxComputeWorkgroupStorageSize: bytes },
      ...{ f16: true, subgroups: true, isFallback: false },
    })?.heads;
  assertEquals([choose(pairs(128, 11)), choose(pairs(128, 21)), choose(pairs(128, 21), 32768)], [4, 4, 2]);
  assertEquals([choose(codec(128, "p", 8)), choose(pairs(128, 100))], [undefined, undefined]);
});
