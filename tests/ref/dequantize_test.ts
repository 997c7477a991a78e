import { assert, assertEquals, assertThrows } from "@std/assert";
import { dequantize } from "../../src/ref/dequantize.ts";
import { randomWeights, TYPES } from "../kernels/_weights.ts";

const ONE = [0, 0x3c], HALF = [0, 0x38]; // f16, little-endian

Deno.test("dequantize() reads plain numbers", () => {
  assertEquals(dequantize("F32", Uint8Array.of(0, 0, 0x20, 0xc1, 0, 0, 0, 0), 2), Float32Array.of(-10, 0));
  assertEquals(dequantize("F16", Uint8Array.of(0, 0xc5, 1, 0), 2), Float32Array.of(-5, 2 ** -24));
  assertEquals(dequantize("BF16", Uint8Array.of(0x20, 0xc1, 0x80, 0x3f), 2), Float32Array.of(-10, 1));
});

Deno.test("dequantize() reads Q8_0: d times int8", () => {
  const out = dequantize("Q8_0", Uint8Array.of(...HALF, 0x80, 127, ...new Array(30).fill(0xff)), 32);
  assertEquals([...out.subarray(0, 3)], [-64, 63.5, -0.5]);
});

Deno.test("dequantize() reads Q4_0: low halves first, less 8", () => {
  const out = dequantize("Q4_0", Uint8Array.of(...HALF, 0xf0, ...new Array(15).fill(0x98)), 32);
  assertEquals([...out.subarray(0, 2), ...out.subarray(16, 18)], [-4, 0, 3.5, 0.5]);
});

Deno.test("dequantize() reads Q4_K: 6-bit scales and minima in 12 bytes", () => {
  const block = new Uint8Array(144);
  block.set([...ONE, ...HALF]);
  block[4] = 5 | 2 << 6; // scale of sub-block 0, top bits of that of 4
  block[8] = 6 | 1 << 6; // minimum of sub-block 0, top bits of that of 4
  block[12] = 3 | 7 << 4; // low bits of scale and minimum of sub-block 4
  block[16] = 0xa4; // first weights of sub-blocks 0 and 1
  block[16 + 64] = 9; // first weight of sub-block 4
  const out = dequantize("Q4_K", block, 256);
  assertEquals([out[0], out[1]], [5 * 4 - 0.5 * 6, -3]);
  assertEquals([out[32], out[33]], [0, 0]); // scale 0
  assertEquals([out[128], out[129]], [(2 * 16 + 3) * 9 - 0.5 * (16 + 7), -0.5 * 23]);
});

Deno.test("dequantize() reads Q6_K: 4 low and 2 high bits, less 32", () => {
  const block = new Uint8Array(210);
  block.set(HALF, 208);
  block.set([2, 0xff, 3, 0, 5], 192); // scales of weights 0.., 16.., 32.., 64..
  block[0] = 0xc7; // low bits of weights 0 and 64
  block[32] = 0x01; // of weights 32 and 96
  block[128] = 0b00_10_01_11; // high bits of weights 96, 64, 32, 0
  const out = dequantize("Q6_K", block, 256);
  assertEquals([out[0], out[1]], [0.5 * 2 * (0x37 - 32), -32]);
  assertEquals(out[16], 0.5 * -1 * -32);
  assertEquals(out[32], 0.5 * 3 * (0x11 - 32));
  assertEquals([out[64], out[65]], [0.5 * 5 * (0x2c - 32), 0.5 * 5 * -32]);
  assert(out[96] === 0 && out[255] === 0, "scales of zero");
});

Deno.test("dequantize() reads random blocks of every type as the kernels' tests do", () => {
  for (const type of TYPES) {
    const { file, numbers } = randomWeights(type, 3, 512, 7);
    assertEquals(dequantize(type, file, 3 * 512), Float32Array.from(numbers));
  }
});

Deno.test("dequantize() refuses bytes that are not whole blocks", () => {
  assertThrows(() => dequantize("Q8_0", new Uint8Array(33), 32), TypeError, "take 34 bytes: got 33");
});
