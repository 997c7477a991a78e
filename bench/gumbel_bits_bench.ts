import { gumbelBitsShapes } from "../src/core/shapes.ts";
import { GumbelBits } from "../src/kernels/gumbel_bits.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench();
const dims = { layers: software ? 1 : 8, tokens: 4096, symbols: 256 }, shapes = gumbelBitsShapes(dims);
using logits = gpu.alloc("logits", "f32", shapes.logits), bits = gpu.alloc("bits", "f32", shapes.bits);
using words = gpu.alloc("words", "u32", shapes.words);
for (const backward of [false, true]) {
  const op = await GumbelBits.create(gpu, backward), io = { logits, bits, words };
  const bytes = backward ? 2 * logits.byteLength + bits.byteLength : traffic(io);
  await time(`gumbel_bits layers=${dims.layers} symbols=256 backward=${backward}`, bytes, (commands, step) => {
    op.encode(commands, io, dims, { seed: 1, step });
  });
}
