import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { scoreRowsShapes } from "../../src/core/shapes.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { chooseScoreRowsLanes, type RowScore, rowScores, ScoreRows } from "../../src/kernels/score_rows.ts";
import { scoreRowsRef } from "../../src/ref/score_rows.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { onEachText } from "../_gpu.ts";

async function run(gpu: Gpu, logits: Float32Array, targets: Uint32Array, lanes?: number): Promise<RowScore[]> {
  const tokens = targets.length, vocab = logits.length / tokens, shapes = scoreRowsShapes({ tokens, vocab });
  using logitsT = gpu.upload("logits", "f32", shapes.logits, logits);
  using targetsT = gpu.upload("targets", "u32", shapes.targets, targets);
  using scores = gpu.upload("scores", "u32", shapes.scores, new Uint32Array(4 * tokens).fill(0x7fc00000));
  const op = await ScoreRows.create(gpu, vocab, { lanes }), commands = gpu.commands();
  op.encode(commands, { logits: logitsT, targets: targetsT, scores });
  commands.submit();
  return rowScores(await gpu.read(scores));
}

Deno.test("score_rows", (t) =>
  onEachText(t, async (gpu, t) => {
    for (const [tokens, vocab, lanes] of [[3, 1, 256], [5, 7, 64], [4, 8192, 256], [2, 128256, undefined]] as const) {
      await t.step(`is right at ${tokens}x${vocab}, ${lanes ?? "chosen"} lanes`, async () => {
        const rng = new Rng(5), logits = normals(rng, tokens * vocab, 3);
        const targets = Uint32Array.from({ length: tokens }, () => rng.below(vocab));
        targets[0] = scoreRowsRef(logits, targets).top[0]!; // a likely one, too
        const actual = await run(gpu, logits, targets, lanes);
        const exact = scoreRowsRef(logits, targets), naive = scoreRowsRef(logits, targets, Math.fround);
        assertEquals(actual.map(({ top }) => top), exact.top);
        assertEquals(actual.map(({ topLogit }) => topLogit), exact.topLogit);
        for (const name of ["logSumExp", "nll"] as const) {
          assertAsAccurateAs(actual.map((score) => score[name]), naive[name], exact[name]);
        }
      });
    }
    await t.step("takes the lowest id of equals, wherever they lie", async () => {
      for (const at of [[0, 1], [2, 66], [66, 130], [130, 194], [194, 258], [255, 256], [3, 259], [517, 999]]) {
        const logits = new Float32Array(1000).fill(-1);
        for (const i of at) logits[i] = 2;
        const [score] = await run(gpu, logits, Uint32Array.of(at[1]!));
        assertEquals(score!.top, at[0]);
      }
      const [score] = await run(gpu, new Float32Array(1000), Uint32Array.of(5));
      assertEquals(score!.top, 0);
      assertAlmostEquals(score!.nll, Math.log(1000), 1e-5);
    });
    await t.step("bears -inf and huge logits", async () => {
      const logits = new Float32Array(3 * 600).fill(-Infinity);
      logits[599] = -7; // all but the last are impossible
      logits.fill(3e38, 600, 602); // two huge ones, the rest impossible
      logits.fill(-3e38, 1200).fill(-2.9e38, 1300, 1302);
      const [one, huge, low] = await run(gpu, logits, Uint32Array.of(599, 1, 101));
      assertEquals(one, { top: 599, topLogit: -7, logSumExp: -7, nll: 0 });
      assertEquals([huge!.top, huge!.topLogit], [0, Math.fround(3e38)]);
      assertAlmostEquals(huge!.nll, Math.LN2, 1e-6);
      assertEquals([low!.top, low!.topLogit], [100, Math.fround(-2.9e38)]);
      assertAlmostEquals(low!.nll, Math.LN2, 1e-6);
      const [never] = await run(gpu, logits.subarray(0, 600), Uint32Array.of(3));
      assertEquals(never!.nll, Infinity);
    });
    await t.step("tells likelihoods near 1 apart", async () => {
      const logits = new Float32Array(512).fill(-20);
      logits[7] = 10;
      const [score] = await run(gpu, logits, Uint32Array.of(7));
      assert(score!.nll >= 0 && score!.nll < 1e-7, `${score!.nll}`);
    });
    await t.step("rejects a wrong shape by name", async () => {
      const op = await ScoreRows.create(gpu, 8), x = gpu.alloc("x", "f32", [2, 8]);
      assertThrows(
        () => op.encode(gpu.commands(), { logits: x, targets: x, scores: x }),
        TypeError,
        "'targets' must have shape [2]",
      );
    });
  }));

Deno.test("chooseScoreRowsLanes() stays within the device", () => {
  for (const vocab of [1, 8192, 128256]) {
    for (const most of [64, 256, 1024]) assert(chooseScoreRowsLanes(vocab, most) <= most);
  }
});

Deno.test("scoreRowsRef() agrees with a case by hand", () => {
  const logits = Float32Array.from([1, 2, 5], (x) => Math.log(x)), got = scoreRowsRef(logits, [1]);
  assertEquals(got.top, [2]);
  assertAlmostEquals(got.logSumExp[0]!, Math.log(8), 1e-6);
  assertAlmostEquals(got.nll[0]!, Math.log(4), 1e-6);
});
