import { Rng } from "../src/core/rng.ts";
import { emAccumulateShapes, type EmDims } from "../src/core/shapes.ts";
import { EmAccumulate } from "../src/kernels/em_accumulate.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench(), rng = new Rng(1);
const pair = { kind: "pair", tied: true } as const;
const cases: readonly EmDims[] = [
  { headDim: 128, heads: 1, tokens: 2 ** 20, stage: pair },
  { headDim: 64, heads: 4, tokens: 2 ** 17, stage: pair },
  { headDim: 64, heads: 4, tokens: 2 ** 17, stage: { kind: "sub", pairs: 8 } },
];
for (const full of cases) {
  const dims = software ? { ...full, heads: 1, tokens: 8192 } : full, shapes = emAccumulateShapes(dims);
  const { headDim, heads, tokens, stage } = dims;
  using residual = gpu.alloc("residual", "f32", shapes.residual), codes = gpu.alloc("codes", "u32", shapes.codes);
  const some = Uint32Array.from({ length: 2 ** 12 }, () => rng.below(stage.kind === "pair" ? 4096 : 256));
  for (let at = 0; at < codes.byteLength; at += some.byteLength) gpu.write(codes, some, at);
  using distances = gpu.alloc("distances", "f32", shapes.distances), scales = gpu.alloc("scales", "f16", shapes.scales);
  using sums = gpu.alloc("sums", "f32", shapes.sums);
  const io = { residual, codes, distances, scales, sums };
  const op = await EmAccumulate.create(gpu, headDim, stage);
  const name = `em_accumulate ${stage.kind} ${heads}x${tokens}x${headDim}`;
  await time(name, traffic(io), (commands) => op.encode(commands, { ...io, weights: codes }, dims), {
    repetitions: software ? 3 : 20,
  });
}
