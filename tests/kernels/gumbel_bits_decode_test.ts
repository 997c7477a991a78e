import { assertEquals, assertThrows } from "@std/assert";
import { toF16Array } from "../../src/core/f16.ts";
import { Rng } from "../../src/core/rng.ts";
import { gumbelBitsDecodeShapes } from "../../src/core/shapes.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { GumbelBitsDecode } from "../../src/kernels/gumbel_bits_decode.ts";
import { gumbelBitsDecodeRef } from "../../src/ref/gumbel_bits_decode.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { poisoned } from "../_gpu.ts";

Deno.test("gumbel_bits_decode", async (t) => {
  using gpu = await Gpu.create();
  for (const [tokens, words, features] of [[1, 1, 32], [5, 2, 32], [3, 16, 256], [7, 3, 96]] as const) {
    await t.step(`is as accurate as f32 at T=${tokens} W=${words} F=${features}`, async () => {
      const rng = new Rng(31), shapes = gumbelBitsDecodeShapes({ tokens, words, features });
      const bits = Uint32Array.from({ length: tokens * words }, (_, i) => i === 0 ? 0 : rng.u32());
      const s = toF16Array(normals(rng, tokens)),
        scale = normals(rng, features),
        codebook = normals(rng, 32 * words * features);
      using wordsT = gpu.upload("words", "u32", shapes.words, bits);
      using scales = gpu.upload("scales", "f16", shapes.scales, s);
      using codebookT = gpu.upload("codebook", "f32", shapes.codebook, codebook);
      using scaleT = gpu.upload("scale", "f32", shapes.scale, scale);
      using out = poisoned(gpu, "out", shapes.out);
      const op = await GumbelBitsDecode.create(gpu, features, words), commands = gpu.commands();
      op.encode(commands, { words: wordsT, scales, codebook: codebookT, scale: scaleT, out }, tokens);
      commands.submit();
      const naive = gumbelBitsDecodeRef(bits, s, codebook, scale, Math.fround);
      assertAsAccurateAs(await gpu.readF32(out), naive, gumbelBitsDecodeRef(bits, s, codebook, scale));
    });
  }
  await t.step("rejects a wrong shape by name", async () => {
    const op = await GumbelBitsDecode.create(gpu, 32, 1), x = gpu.alloc("x", "f32", [1, 1]);
    const io = { words: x, scales: x, codebook: x, scale: x, out: x };
    assertThrows(() => op.encode(gpu.commands(), io, 1), TypeError, "'scales' must have shape [1]");
  });
});

Deno.test("gumbelBitsDecodeRef() agrees with a sum by hand", () => {
  const codebook = new Float32Array(64).map((_, i) => i), words = Uint32Array.of(0b1001);
  // rows 0 and 3 of two features: (0, 1) + (6, 7)
  assertEquals([...gumbelBitsDecodeRef(words, toF16Array([0.5]), codebook, Float32Array.of(1, 2))], [3, 8]);
});
