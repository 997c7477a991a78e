/** Packed codes decoded to half precision, as prefill over a compressed past needs them. */
import { codeDecodeShapes } from "../src/core/shapes.ts";
import { CodeDecode } from "../src/kernels/code_decode.ts";
import { gpu, HEADS, LONGEST, repetitions, rope, SIDES, software, stream } from "./_codes.ts";
import { time } from "./_harness.ts";

using ropeTable = rope(gpu);
const { kvHeads } = HEADS, tokens = Math.min(LONGEST, 8192), tableRows = ropeTable.shape[0]!;
for (const [name, { keys: { codec, shares } }] of Object.entries(SIDES)) {
  using packed = stream(codec, LONGEST, 1, shares);
  const shapes = codeDecodeShapes({ codec, kvHeads, codeBlocks: 0, capacity: tokens, tableRows });
  using out = gpu.alloc("out", "u32", shapes.out);
  for (const rotate of [false, true]) {
    for (const words of software ? ["words_half"] as const : ["words_half", "words_f16"] as const) {
      const op = await CodeDecode.create(gpu, codec, kvHeads, { rotate, words }), { table, quads } = packed;
      await time(
        `code_decode ${name} T=${tokens} ${words}${rotate ? " rotated" : ""}`,
        out.byteLength + packed.bytes * tokens / LONGEST,
        (commands, i) => {
          const copy = packed.copies[i % packed.copies.length]!, first = 1024 * i % (LONGEST - tokens + 8);
          op.encode(commands, { table, quads, ropeTable, out, ...copy }, { first, tokens });
        },
        { repetitions },
      );
    }
  }
}
