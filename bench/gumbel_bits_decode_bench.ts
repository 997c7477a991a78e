import { gumbelBitsDecodeShapes } from "../src/core/shapes.ts";
import { GumbelBitsDecode } from "../src/kernels/gumbel_bits_decode.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench();
for (const words of [8, 16]) {
  const tokens = software ? 512 : 4096, features = 256, shapes = gumbelBitsDecodeShapes({ tokens, words, features });
  // Alternating bits: half of the rows are summed, as in real codes.
  using bits = gpu.upload("words", "u32", shapes.words, new Uint32Array(tokens * words).fill(0x55555555));
  using scales = gpu.alloc("scales", "f16", shapes.scales), codebook = gpu.alloc("codebook", "f32", shapes.codebook);
  using scale = gpu.alloc("scale", "f32", shapes.scale), out = gpu.alloc("out", "f32", shapes.out);
  const op = await GumbelBitsDecode.create(gpu, features, words), io = { words: bits, scales, codebook, scale, out };
  await time(`gumbel_bits_decode tokens=${tokens} bits=${32 * words}`, traffic(io), (commands) => {
    op.encode(commands, io, tokens);
  });
}
