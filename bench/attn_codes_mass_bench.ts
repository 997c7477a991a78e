/** Values of pair stages weighed as mass of words: workgroups. */
import { pairStages } from "../src/core/codec.ts";
import { attnCodesMassShapes, codeScoresShape } from "../src/core/shapes.ts";
import { AttnCodesMass, chooseAttnCodesMass } from "../src/kernels/attn_codes_mass.ts";
import { random } from "./_attn.ts";
import { gpu, HEADS, LONGEST, perToken, repetitions, software, stream } from "./_codes.ts";
import { time } from "./_harness.ts";

for (const count of [11, 21]) {
  const codec = pairStages(HEADS.headDim, count, false),
    dims = { ...HEADS, codec },
    chosen = chooseAttnCodesMass(dims, gpu);
  if (!chosen) continue;
  using values = stream(codec, LONGEST);
  const shape = codeScoresShape({ ...HEADS, heads: chosen.heads, capacity: LONGEST });
  using scores = random(gpu, "scores", "f32", shape);
  for (const workgroups of software ? [8] : [256, 512, 1024, 2048]) {
    const op = await AttnCodesMass.create(gpu, dims, { ...chosen, workgroups }), splits = op.splits(LONGEST);
    const shapes = attnCodesMassShapes({ ...dims, heads: chosen.heads, capacity: LONGEST, splits, codeBlocks: 0 });
    using mass = gpu.alloc("mass", "f32", shapes.mass), massMd = gpu.alloc("mass_md", "f32", shapes.massMd);
    const timing = await time(
      `mass ${count} pair heads=${chosen.heads} wgs=${workgroups}`,
      values.bytes + scores.byteLength + mass.byteLength,
      (commands, i) => {
        const copy = values.copies[i % values.copies.length]!;
        op.encode(commands, { scores, mass, massMd, ...copy }, { tokens: LONGEST });
      },
      { repetitions },
    );
    perToken(timing, LONGEST);
  }
}
