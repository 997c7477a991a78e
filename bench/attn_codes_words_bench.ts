/** Mass of words folded and multiplied by the words. */
import { pairStages } from "../src/core/codec.ts";
import { attnCodesWordsShapes } from "../src/core/shapes.ts";
import { AttnCodesWords } from "../src/kernels/attn_codes_words.ts";
import { chooseHeads } from "../src/kernels/packed_codes.ts";
import { random } from "./_attn.ts";
import { gpu, HEADS, repetitions } from "./_codes.ts";
import { time, traffic } from "./_harness.ts";

for (const [count, splits] of [[11, 32], [11, 128], [21, 128]] as const) {
  const dims = { ...HEADS, codec: pairStages(HEADS.headDim, count, false) }, heads = chooseHeads(HEADS);
  const op = await AttnCodesWords.create(gpu, dims, heads);
  const shapes = attnCodesWordsShapes({ ...dims, heads, splits, states: op.states });
  using mass = random(gpu, "mass", "f32", shapes.mass), massMd = random(gpu, "mass_md", "f32", shapes.massMd);
  using table = random(gpu, "table", "u32", shapes.table);
  using partialO = gpu.alloc("partial_o", "f32", shapes.partialO);
  using partialMd = gpu.alloc("partial_md", "f32", shapes.partialMd);
  const io = { mass, massMd, table, partialO, partialMd };
  await time(`words ${count} pair splits=${splits}`, traffic(io), (commands) => op.encode(commands, io, { splits }), {
    repetitions,
  });
}
