import { cacheRoundShapes } from "../src/core/shapes.ts";
import { BASELINES } from "../src/eval/baselines.ts";
import { CacheRound } from "../src/kernels/cache_round.ts";
import { random } from "./_attn.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench();
const headDim = 128, shapes = cacheRoundShapes({ kvHeads: 8, headDim, capacity: software ? 256 : 8192 });
using source = random(gpu, "source", "u32", shapes.source), rounded = gpu.alloc("rounded", "u32", shapes.rounded);
for (const { name, keys, values } of BASELINES) {
  for (const rounding of keys.codec === values.codec ? [keys] : [keys, values]) {
    const op = await CacheRound.create(gpu, headDim, rounding), io = { source, rounded };
    await time(`cache_round ${name} ${rounding.codec}`, traffic(io), (commands) => op.encode(commands, io), {
      repetitions: software ? 3 : 10,
    });
  }
}
