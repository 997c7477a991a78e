/** Values decoded and weighed: forms of the words, lanes a token, lanes a workgroup, workgroups. */
import { codeScoresShape } from "../src/core/shapes.ts";
import { AttnCodesValues, chooseAttnCodesValues } from "../src/kernels/attn_codes_values.ts";
import type { TableLayout } from "../src/kernels/packed_codes.ts";
import { random } from "./_attn.ts";
import { gpu, HEADS, LONGEST, perToken, repetitions, SIDES, software, stream } from "./_codes.ts";
import { time } from "./_harness.ts";

const { qHeads, headDim } = HEADS;
for (const [name, { values: { codec, shares } }] of Object.entries(SIDES)) {
  const dims = { ...HEADS, codec }, chosen = chooseAttnCodesValues(dims, gpu);
  using values = stream(codec, LONGEST, 1, shares);
  const changes: Partial<TableLayout>[] = software ? [{}] : [
    {},
    ...(["words_f16", "words_half"] as TableLayout["words"][]).map((words) => ({ words })),
    { tokenLanes: 32 },
    ...[256, 1024].map((lanes) => ({ lanes })),
    ...[64, 256, 512, 1024].map((workgroups) => ({ workgroups })),
    { lanes: 256, workgroups: 256 },
  ];
  const shape = codeScoresShape({ ...HEADS, heads: chosen.heads, capacity: LONGEST });
  using scores = random(gpu, "scores", "f32", shape);
  for (const change of changes) {
    const variant = { ...chosen, ...change }, { words, tokenLanes, lanes, workgroups } = variant;
    const op = await AttnCodesValues.create(gpu, dims, { variant }), states = op.states(LONGEST);
    using partialO = gpu.alloc("partial_o", "f32", [states, qHeads, headDim]);
    using partialMd = gpu.alloc("partial_md", "f32", [states, qHeads, 2]);
    const timing = await time(
      `values ${name} ${words} token=${tokenLanes} lanes=${lanes} wgs=${workgroups}`,
      values.bytes + scores.byteLength,
      (commands, i) => {
        const copy = values.copies[i % values.copies.length]!, { table, quads } = values;
        op.encode(commands, { scores, ...copy, table, quads, partialO, partialMd }, { tokens: LONGEST });
      },
      { repetitions },
    );
    perToken(timing, LONGEST);
  }
}
