import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { gumbelBitsShapes } from "../../src/core/shapes.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { GumbelBits, type NoiseKey } from "../../src/kernels/gumbel_bits.ts";
import { gumbelBitsBackwardRef, gumbelBitsRef, gumbelNoise } from "../../src/ref/gumbel_bits.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { poisoned } from "../_gpu.ts";

const DIMS = { layers: 2, tokens: 5, symbols: 48 }, KEY = { seed: 77, step: 12 };
const SYMBOLS = DIMS.tokens * DIMS.symbols;

async function run(gpu: Gpu, logits: Float32Array, noise?: NoiseKey, gradient?: Float32Array) {
  const shapes = gumbelBitsShapes(DIMS), op = await GumbelBits.create(gpu, gradient !== undefined);
  using logitsT = gpu.upload("logits", "f32", shapes.logits, logits);
  using bits = gradient ? gpu.upload("bits", "f32", shapes.bits, gradient) : poisoned(gpu, "bits", shapes.bits);
  using words = gpu.alloc("words", "u32", shapes.words);
  const commands = gpu.commands();
  op.encode(commands, { logits: logitsT, bits, words }, DIMS, noise);
  commands.submit();
  return { logits: await gpu.readF32(logitsT), bits: await gpu.readF32(bits), words: await gpu.readU32(words) };
}

/** Noise of both layers, which is the same. */
function noiseOf(key: NoiseKey): Float64Array {
  const one = gumbelNoise(SYMBOLS, key);
  return Float64Array.from([...one, ...one]);
}

Deno.test("gumbel_bits", async (t) => {
  using gpu = await Gpu.create();
  const logits = normals(new Rng(21), 8 * SYMBOLS, 2);
  for (const key of [undefined, KEY]) {
    await t.step(`chooses the likeliest state ${key ? "with noise" : "without noise"}`, async () => {
      const actual = await run(gpu, logits, key), want = gumbelBitsRef(logits, key && noiseOf(key));
      for (let i = 0; i < 2 * SYMBOLS; i++) {
        if (want.margins[i]! < 1e-4) continue; // f32 may choose the other
        assertEquals(actual.bits.subarray(2 * i, 2 * i + 2), Float32Array.from(want.bits.subarray(2 * i, 2 * i + 2)));
      }
      const packed = new Uint32Array(actual.words.length);
      actual.bits.forEach((bit, i) => packed[i >>> 5]! |= bit << (i & 31));
      assertEquals(actual.words, packed);
    });
    await t.step(`takes gradients back as accurately as f32 ${key ? "with noise" : "without noise"}`, async () => {
      const gradient = normals(new Rng(22), 4 * SYMBOLS), noise = key && noiseOf(key);
      const actual = await run(gpu, logits, key, gradient);
      const naive = gumbelBitsBackwardRef(logits, gradient, noise?.map(Math.fround), Math.fround);
      // Noise is a log of a log: its error of a few units of 2^-21 in the logits becomes that of a probability.
      assertAsAccurateAs(
        actual.logits,
        naive,
        gumbelBitsBackwardRef(logits, gradient, noise),
        key ? 2 ** -19 : 2 ** -22,
      );
    });
  }
  await t.step("gives every state its bits, and the first of equal states", async () => {
    const each = new Float32Array(8 * SYMBOLS).map((_, i) => i % 4 === (i >> 2) % 4 ? 1 : 0);
    assertEquals([...(await run(gpu, each)).bits.subarray(0, 8)], [1, 0, 0, 1, 1, 1, 0, 0]);
    assertEquals([...(await run(gpu, new Float32Array(8 * SYMBOLS))).bits.subarray(0, 2)], [1, 0]);
  });
  await t.step("rejects a wrong shape by name", async () => {
    const op = await GumbelBits.create(gpu), x = gpu.alloc("x", "f32", [2, 5, 192]);
    const encode = () => op.encode(gpu.commands(), { logits: x, bits: x, words: x }, DIMS);
    assertThrows(encode, TypeError, "'bits' must have shape [2,5,96]");
  });
});

Deno.test("gumbelNoise() is Gumbel noise, new at every step and seed", () => {
  const noise = gumbelNoise(20_000, KEY), mean = noise.reduce((a, b) => a + b) / noise.length;
  const variance = noise.reduce((a, b) => a + (b - mean) ** 2, 0) / noise.length;
  assert(Math.abs(mean - 0.5772) < 0.02 && mean !== 0.5772, `mean ${mean}`);
  assert(Math.abs(variance - Math.PI ** 2 / 6) < 0.06, `variance ${variance}`);
  for (const key of [{ seed: 77, step: 13 }, { seed: 78, step: 12 }]) {
    const other = gumbelNoise(20_000, key);
    const product = noise.reduce((sum, x, i) => sum + (x - mean) * (other[i]! - mean), 0) / noise.length / variance;
    assert(Math.abs(product) < 0.02, `correlation ${product}`);
  }
});

Deno.test("gumbelBitsBackwardRef() is the gradient of the expected bits", () => {
  const logits = Float64Array.from(normals(new Rng(23), 4)), gradient = Float64Array.of(0.7, -1.3);
  const value = (x: Float64Array) => {
    const e = x.map(Math.exp), sum = e.reduce((a, b) => a + b);
    return (0.7 * (e[0]! + e[2]!) - 1.3 * (e[1]! + e[2]!)) / sum;
  };
  gumbelBitsBackwardRef(logits, gradient).forEach((d, i) => {
    const up = logits.slice(), down = logits.slice();
    up[i]! += 1e-5;
    down[i]! -= 1e-5;
    assertAlmostEquals(d, (value(up) - value(down)) / 2e-5, 1e-9);
  });
});
