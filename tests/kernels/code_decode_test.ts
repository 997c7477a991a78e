import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { fromF16Array } from "../../src/core/f16.ts";
import { codeDecodeShapes } from "../../src/core/shapes.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { CodeDecode } from "../../src/kernels/code_decode.ts";
import type { WordsPart } from "../../src/kernels/packed_codes.ts";
import { codeDecodeRef, type PackedNumbers } from "../../src/ref/code_decode.ts";
import { exact, type Round } from "../../src/ref/round.ts";
import { assertAsAccurateAs } from "../_assert.ts";
import { onEachText } from "../_gpu.ts";
import { codec, packedSample, pairs, rope, tiered, toHalf, uploadPacked } from "./_codes.ts";

const CASES = [
  { codec: pairs(64, 5), kvHeads: 2, total: 65, first: 0, tokens: 65, rotate: true },
  { codec: codec(128, "p", 8, 16), kvHeads: 1, total: 200, first: 40, tokens: 97, rotate: true },
  { codec: tiered(codec(64, "p", 8, "p"), 1), kvHeads: 2, total: 200, first: 40, tokens: 97, rotate: true },
  { codec: tiered(codec(64, 8, "p", "p", 16), 2), kvHeads: 2, total: 900, first: 8, tokens: 891, rotate: true },
  { codec: codec(80, 4, "p"), kvHeads: 2, total: 33, first: 8, tokens: 1, rotate: false },
];

Deno.test("code_decode", (t) =>
  onEachText(t, async (gpu, t) => {
    for (const it of CASES) {
      const sample = packedSample(it.codec, it.kvHeads, it.total, 3, { isOnGrid: false });
      for (const words of ["words_half", "words_f16"] as const) {
        if (words !== "words_half" && (!gpu.f16 || !gpu.subgroups)) continue;
        await t.step(`is as accurate as f32 rounded to half precision, ${words}, D=${it.codec.headDim}`, async () => {
          const position = (_: number, t: number) => 5 + t;
          const got = await run(gpu, it, sample, words);
          const { frequencies, ropeTable } = rope(gpu, it.codec.headDim, 1);
          ropeTable[Symbol.dispose]();
          const rotation = it.rotate ? { frequencies, position } : undefined;
          const want = (round: Round, sum = round) => codeDecodeRef(sample, { ...it, rotation }, round, sum);
          const naive = want(Math.fround, words === "words_half" ? Math.fround : toHalf).map(toHalf);
          assertAsAccurateAs(got, naive, want(exact));
        });
      }
    }
    await t.step("rejects tokens and slots that are not there", async () => {
      const sample = packedSample(pairs(64, 1), 1, 32, 1), op = await CodeDecode.create(gpu, sample.codec, 1);
      const { ropeTable } = rope(gpu, 64, 64),
        out = gpu.alloc("out", "u32", [1, 8, 32]),
        packed = uploadPacked(gpu, sample);
      const encode = (first: number, tokens: number) => () =>
        op.encode(gpu.commands(), { ...packed, ropeTable, out }, { first, tokens });
      assertThrows(encode(4, 1), RangeError, "tokens 4 to 4");
      assertThrows(encode(0, 9), RangeError, "8 slots");
      assertThrows(encode(32, 1), RangeError, "1 blocks");
    });
  }));

async function run(
  gpu: Gpu,
  it: (typeof CASES)[number],
  sample: ReturnType<typeof packedSample>,
  words: WordsPart,
): Promise<Float32Array> {
  const { codec, kvHeads, tokens } = it, { headDim } = codec, slot = 2, capacity = tokens + 3;
  using stack = new DisposableStack();
  const op = await CodeDecode.create(gpu, codec, kvHeads, { rotate: it.rotate, words });
  const packed = uploadPacked(gpu, sample), { ropeTable } = rope(gpu, headDim, 1000);
  const shape = codeDecodeShapes({ codec, kvHeads, codeBlocks: 0, capacity, tableRows: 0 }).out;
  const out = gpu.upload("out", "u32", shape, new Uint32Array(kvHeads * capacity * headDim / 2).fill(0x7e007e00));
  for (const tensor of [...Object.values(packed), ropeTable, out]) stack.use(tensor);
  const commands = gpu.commands();
  op.encode(commands, { ...packed, ropeTable, out }, { ...it, slot, base: 5 });
  commands.submit();
  const all = fromF16Array(new Uint16Array(await gpu.read(out))), row = capacity * headDim;
  return Float32Array.from({ length: kvHeads * tokens * headDim }, (_, i) => {
    const k = Math.floor(i / tokens / headDim), at = k * row + slot * headDim + i % (tokens * headDim);
    if (i % (tokens * headDim) === 0) assertEquals(Number.isNaN(all[k * row + slot * headDim - 1]), true); // untouched
    return all[at]!;
  });
}

Deno.test("codeDecodeRef() adds words, scales and turns them", () => {
  const words = new Float64Array(2 * 128 * 8), shape = codec(8, "p"); // 4 pairs
  words.set([1, 2, 3, 4, 5, 6, 7, 8], 3 * 8); // u[3]
  words.set([10, 20, 30, 40, 50, 60, 70, 80], (64 + 5) * 8); // v[5]
  const packed: PackedNumbers = {
    ...{ codec: shape, kvHeads: 1, words, scales: Float64Array.of(2) },
    codes: Uint32Array.of(3 * 64 + 5, ...new Array(11).fill(0)),
  };
  assertEquals([...codeDecodeRef(packed, { tokens: 1 })], [22, 66, 110, 154, 44, 88, 132, 176]);
  const frequencies = Float64Array.of(Math.PI / 2, 0, 0, 0), rotation = { frequencies, position: () => 1 };
  const turned = codeDecodeRef(packed, { tokens: 1, rotation });
  assertAlmostEquals(turned[0]!, -44, 1e-12);
  assertAlmostEquals(turned[4]!, 22, 1e-12);
});
