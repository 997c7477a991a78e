import { attnDecodeShapes } from "../src/core/shapes.ts";
import { AttnDecode } from "../src/kernels/attn_decode.ts";
import { attnWalkSplits, chooseAttnWalk } from "../src/kernels/attn_walk.ts";
import { random } from "./_attn.ts";
import { bench, ROTATE_BYTES, time } from "./_harness.ts";

const { gpu, software } = await bench();
const contexts = software ? [1024] : [1024, 8192, 32768, 131072], rotated = software ? 2 ** 22 : ROTATE_BYTES;
for (const [qHeads, kvHeads, tokens] of [[32, 8, 1], [64, 8, 1], [32, 32, 1], [32, 8, 16]] as const) {
  const heads = { qHeads, kvHeads, headDim: 128 }, chosen = chooseAttnWalk(heads, gpu);
  for (const seen of contexts) {
    const dims = { ...heads, tokens, capacity: seen + tokens - 1, states: 2 * chosen.states };
    const shapes = attnDecodeShapes(dims);
    const bytes = 2 * 2 * kvHeads * seen * heads.headDim, copies = Math.ceil(rotated / bytes);
    const q = random(gpu, "q", "f32", shapes.q);
    const partialO = gpu.alloc("partial_o", "f32", shapes.partialO);
    const partialMd = gpu.alloc("partial_md", "f32", shapes.partialMd);
    const caches = Array.from({ length: copies }, () => ({
      keys: random(gpu, "keys", "u32", shapes.keys),
      values: random(gpu, "values", "u32", shapes.values),
    }));
    const variants = software || qHeads !== 32 || kvHeads !== 8 || tokens !== 1
      ? [chosen]
      : [32, 64, 128].flatMap((chunkLanes) =>
        [0.5, 1, 2].map((factor) => ({ ...chosen, chunkLanes, states: factor * chosen.states }))
      );
    for (const variant of variants) {
      const op = await AttnDecode.create(gpu, heads, { variant }), splits = attnWalkSplits(variant, seen, tokens);
      await time(
        `attn_decode ${qHeads}/${kvHeads} T=${tokens} seen=${seen} lanes=${variant.chunkLanes} splits=${splits}`,
        bytes,
        (commands, i) =>
          op.encode(commands, { q, ...caches[i % copies]!, partialO, partialMd }, { start: 0, seen, tokens, splits }),
        { flops: 4 * qHeads * tokens * seen * heads.headDim, repetitions: software ? 5 : 30 },
      );
    }
    for (const tensor of [q, partialO, partialMd, ...caches.flatMap(({ keys, values }) => [keys, values])]) {
      tensor[Symbol.dispose]();
    }
  }
}
