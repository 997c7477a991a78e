import { Embed } from "../src/kernels/embed.ts";
import { bench, time } from "./_harness.ts";
import { randomMatrix } from "./_weights.ts";

const { gpu } = await bench(), cols = 4096, rows = 8192, tokens = 1024;
for (const type of ["Q8_0", "F16", "Q6_K"] as const) {
  using weights = randomMatrix(gpu, { type, rows, cols });
  using ids = gpu.upload("ids", "u32", [tokens], Uint32Array.from({ length: tokens }, (_, t) => t * 97 % rows));
  using out = gpu.alloc("out", "f32", [tokens, cols]);
  const op = await Embed.create(gpu, type), bytes = weights.bytes / rows * tokens + out.byteLength;
  await time(`embed ${type} ${tokens} tokens`, bytes, (commands) => op.encode(commands, weights, { ids, out }));
}
