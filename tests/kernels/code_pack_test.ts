import { assert, assertEquals, assertThrows } from "@std/assert";
import { codeBits, type CodecShape, fields, pairStages } from "../../src/core/codec.ts";
import { BLOCK, blocks } from "../../src/core/pack.ts";
import { Rng } from "../../src/core/rng.ts";
import { codePackShapes } from "../../src/core/shapes.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { encodeFields } from "../../src/kernels/code_encode.ts";
import { CodePack } from "../../src/kernels/code_pack.ts";
import { codePackRef } from "../../src/ref/code_pack.ts";

const MIXED: CodecShape = {
  headDim: 32,
  stages: [{ kind: "pair", tied: false }, { kind: "sub", pairs: 4 }, { kind: "pair", tied: true }],
};

Deno.test("code_pack", async (t) => {
  using gpu = await Gpu.create();
  for (
    const [codec, heads, tokens, block] of [[MIXED, 2, 37, 3], [pairStages(8, 21, true), 1, 1, 0], [
      MIXED,
      3,
      64,
      1,
    ]] as const
  ) {
    await t.step(
      `packs codes and nothing else: ${heads} heads, ${tokens} tokens, ${fields(codec).length} codes`,
      async () => {
        const capacity = (blocks(tokens) + 1) * BLOCK, codeBlocks = block + blocks(tokens) + 1, rng = new Rng(5);
        const shapes = codePackShapes({ codec, heads, capacity, codeBlocks }), list = fields(codec);
        const numbers = Uint32Array.from(
          { length: heads * capacity * list.length },
          (_, i) => rng.below(2 ** list[i % list.length]!.bits),
        );
        const size = heads * codeBits(codec), untouched = new Uint32Array(codeBlocks * size).fill(0xabcdef01);
        using raw = gpu.upload("raw", "u32", shapes.raw, numbers);
        using table = gpu.upload("fields", "u32", shapes.fields, encodeFields(codec));
        using codes = gpu.upload("codes", "u32", shapes.codes, untouched);
        const op = await CodePack.create(gpu, codec), commands = gpu.commands();
        op.encode(commands, { raw, fields: table, codes }, { tokens, block });
        commands.submit();
        const words = await gpu.readU32(codes);
        assertEquals(words.slice(block * size, (codeBlocks - 1) * size), codePackRef(numbers, codec, heads, tokens));
        assert([...words.subarray(0, block * size), ...words.subarray(-size)].every((w) => w === 0xabcdef01));
      },
    );
  }
  await t.step("refuses codes that do not fit", async () => {
    const codec = pairStages(8, 1, true), op = await CodePack.create(gpu, codec);
    const shapes = codePackShapes({ codec, heads: 1, capacity: 32, codeBlocks: 1 });
    const x = (name: keyof typeof shapes) => gpu.alloc(name, "u32", shapes[name]);
    const io = { raw: x("raw"), fields: x("fields"), codes: x("codes") };
    assertThrows(() => op.encode(gpu.commands(), io, { tokens: 5, block: 1 }), RangeError, "5 tokens to block 1");
    assertThrows(
      () => op.encode(gpu.commands(), { ...io, codes: io.raw }, { tokens: 5, block: 0 }),
      TypeError,
      "'codes'",
    );
  });
});
