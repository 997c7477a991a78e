/** Scores of packed keys: forms of the words, lanes a token, lanes a workgroup, workgroups. */
import { codeScoresShape } from "../src/core/shapes.ts";
import {
  AttnCodesScores,
  type AttnCodesScoresVariant,
  chooseAttnCodesScores,
} from "../src/kernels/attn_codes_scores.ts";
import type { TableLayout } from "../src/kernels/packed_codes.ts";
import { gpu, HEADS, LONGEST, perToken, queries, repetitions, rope, SIDES, software, stream } from "./_codes.ts";
import { time } from "./_harness.ts";

using ropeTable = rope(gpu);
using q = queries(gpu);
for (const [name, { keys: { codec, shares } }] of Object.entries(SIDES)) {
  const dims = { ...HEADS, codec }, chosen = chooseAttnCodesScores(dims, gpu);
  using keys = stream(codec, LONGEST, 1, shares);
  const changes: Partial<AttnCodesScoresVariant>[] = software ? [{}] : [
    {},
    ...(["words_f16", "words_half"] as TableLayout["words"][]).map((words) => ({ words })),
    { tokenLanes: 32 },
    ...[256, 1024].map((lanes) => ({ lanes })),
    ...[64, 256, 512, 1024].map((workgroups) => ({ workgroups })),
    { lanes: 256, workgroups: 256 },
  ];
  for (const change of changes) {
    const variant = { ...chosen, ...change },
      { words, tokenLanes, lanes, workgroups } = variant;
    const op = await AttnCodesScores.create(gpu, dims, { variant });
    const shape = codeScoresShape({ ...HEADS, heads: variant.heads, capacity: LONGEST });
    using scores = gpu.alloc("scores", "f32", shape);
    const timing = await time(
      `scores ${name} ${words} token=${tokenLanes} lanes=${lanes} wgs=${workgroups}`,
      keys.bytes + scores.byteLength,
      (commands, i) => {
        const copy = keys.copies[i % keys.copies.length]!;
        op.encode(commands, { q, ropeTable, scores, ...copy, table: keys.table, quads: keys.quads }, {
          tokens: LONGEST,
        });
      },
      { repetitions },
    );
    perToken(timing, LONGEST);
  }
}
