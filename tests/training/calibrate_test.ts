import { assert, assertEquals, assertRejects } from "@std/assert";
import {
  expectMetric,
  headMetric,
  metricRoots,
  queryMetric,
  timesMatrix,
  turnMeans,
} from "../../src/codebook/metric.ts";
import { type CodecShape, pairStages, type Stage } from "../../src/core/codec.ts";
import type { Tensor } from "../../src/gpu/tensor.ts";
import { Calibration } from "../../src/training/calibrate.ts";
import { inside, load } from "../../src/llama/llama.ts";
import { trainCodebooks } from "../../src/training/train.ts";
import { randomLlama, writeFolder } from "../_llama.ts";
import { relativeError } from "../_assert.ts";
import { SHAPE, SMALL } from "../llama/_small.ts";

const { headDim: D, kvHeads } = SHAPE, { qHeads, hidden } = SMALL, P = D / 2, PAIRS = pairStages(D, 1, false);

/** `E[x x']` of each KV head's vectors in the order of words, `at(head, i, c)` being channel c of a query head's i-th. */
function moments(count: number, at: (head: number, i: number, c: number) => number): Float64Array {
  const out = new Float64Array(kvHeads * D * D), channel = (c: number): number => (c >> 1) + (c & 1) * P;
  for (let head = 0; head < qHeads; head++) {
    const to = Math.floor(head / (qHeads / kvHeads)) * D * D;
    for (let i = 0; i < count; i++) {
      for (let a = 0; a < D; a++) {
        for (let b = 0; b < D; b++) out[to + a * D + b]! += at(head, i, channel(a)) * at(head, i, channel(b));
      }
    }
  }
  return out;
}

/** What metrics say of errors: their squares, which have no sign to differ in. */
function assertSame(a: Uint16Array, b: Uint16Array): void {
  assertEquals(a.length, b.length);
  for (let head = 0; head < kvHeads; head++) {
    const [x, y] = [a, b].map((m) => timesMatrix(headMetric(m, head, D), headMetric(m, head, D), D));
    assert(relativeError(x!, y!) < 2e-3, `head ${head}: ${relativeError(x!, y!)}`);
  }
}

Deno.test("calibration", async (t) => {
  const folder = await Deno.makeTempDir(), model = randomLlama(SMALL, 7);
  await writeFolder(folder, model);
  using llama = await load(folder, { maxContext: 128 });
  const { gpu, decoder, attention } = inside(llama);
  const windows = [Array.from({ length: 100 }, (_, i) => 2 + (i * i) % 90)];
  using calibration = new Calibration(gpu, decoder, attention, windows);

  await t.step("the metric of keys is that of the layer's turned queries", async () => {
    const [part] = (await calibration.vectors(1)).keys.parts as [Tensor],
      [tokens, stride] = part.shape as [number, number];
    const rows = await gpu.readF32(part), all = moments(tokens, (head, i, c) => rows[i * stride + head * D + c]!);
    const turns = turnMeans(model.frequencies), size = D * D;
    const want = Float64Array.from(all, (_, i) => i);
    for (let at = 0; at < all.length; at += size) want.set(queryMetric(all.subarray(at, at + size), turns, D), at);
    const found = await calibration.metrics(1, { keys: PAIRS });
    assertEquals(Object.keys(found), ["keys"]);
    assertSame(found.keys!, metricRoots(want, D));
  });

  await t.step("the metric of values is that of the output projection", async () => {
    const o = model.named.get("blk.1.attn_output")!.numbers;
    const want = moments(hidden, (head, i, c) => o[i * qHeads * D + head * D + c]!);
    assertSame((await calibration.metrics(1, { values: PAIRS })).values!, metricRoots(want, D));
  });

  await t.step("trainCodebooks() follows its switches", async () => {
    const text = Array.from({ length: 60 }, (_, i) => "abcdefghij".slice(i % 7)).join("");
    const train = (options: Partial<Parameters<typeof trainCodebooks>[1]>) =>
      trainCodebooks(llama, { texts: [text], tokens: 128, ...options });
    const usual = await train({ splits: { 1: { keys: 4, values: 1 } } });
    assertEquals([usual.keys.stages.length, usual.keys.stages[0], usual.beam], [5, { kind: "pair", tied: false }, 4]);
    assertEquals([usual.record.metric, usual.splits], ["keys query, values output", { 1: { keys: 4, values: 1 } }]);
    assertEquals(Object.keys(usual.layers[1]!.metrics!), ["keys", "values"]);
    const published = await train({ tied: true, valueMetric: "plain", beam: 1, bits: 1 });
    assertEquals([published.record.metric, published.layers[0]!.metrics], ["keys plain, values plain", undefined]);
    assertEquals(published.keys.stages[0], { kind: "pair", tied: true });
    const stages: Stage[] = [{ kind: "pair", tied: false }, { kind: "sub", pairs: 4 }, { kind: "pair", tied: false }];
    const mixed = await train({ stages: { values: stages } });
    assertEquals(mixed.values, { headDim: D, stages: stages.slice(0, mixed.splits![2]!.values) });
    assertEquals([mixed.splits![2]!.keys, mixed.keys.stages.length], [5, 5]);
    expectMetric(mixed.values as CodecShape, mixed.layers[0]!.metrics!.values);
    await assertRejects(
      () => train({ stages: { keys: stages }, splits: { 2: { keys: 4, values: 2 } } }),
      RangeError,
      "3 are given",
    );
  });
  await Deno.remove(folder, { recursive: true });
});
