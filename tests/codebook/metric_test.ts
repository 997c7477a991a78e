import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { type CodecShape, pairStages } from "../../src/core/codec.ts";
import { Rng } from "../../src/core/rng.ts";
import {
  addMoments,
  DISTANCES,
  expectMetric,
  headMetric,
  inverted,
  metricCell,
  metricRoots,
  queryMetric,
  timesMatrix,
  turnMeans,
} from "../../src/codebook/metric.ts";
import { relativeError } from "../_assert.ts";

const D = 16, P = D / 2, THETA = Float64Array.from({ length: P }, (_, d) => 1000 ** (-d / P));

/** Rows `[T][K·D]` of uneven, correlated channels. */
function queries(tokens: number, heads: number, seed: number): Float32Array {
  const rng = new Rng(seed), mix = Float64Array.from({ length: D * D }, (_, i) => rng.normal() * 0.8 ** (i % D));
  const out = new Float32Array(tokens * heads * D);
  for (let at = 0; at < out.length; at += D) {
    const own = Float64Array.from({ length: D }, () => rng.normal() + 0.3);
    for (let c = 0; c < D; c++) for (let i = 0; i < D; i++) out[at + c]! += mix[c * D + i]! * own[i]!;
  }
  return out;
}

Deno.test("queryMetric() is E[q q'] of queries turned by every distance", () => {
  const rows = queries(20, 2, 1), moments = new Float64Array(D * D), want = new Float64Array(D * D);
  addMoments(moments, rows, { headDim: D, group: 2, stride: 2 * D });
  let weight = 0;
  for (let n = DISTANCES.least; n <= DISTANCES.most; n++) {
    weight += 1 / n;
    for (let at = 0; at < rows.length; at += D) {
      const x = new Float64Array(D);
      for (let d = 0; d < P; d++) {
        const c = Math.cos(n * THETA[d]!), s = Math.sin(n * THETA[d]!), re = rows[at + d]!, im = rows[at + P + d]!;
        x[2 * d] = re * c - im * s;
        x[2 * d + 1] = re * s + im * c;
      }
      for (let i = 0; i < D; i++) for (let j = 0; j < D; j++) want[i * D + j]! += x[i]! * x[j]! / n;
    }
  }
  const got = queryMetric(moments, turnMeans(THETA), D);
  assert(relativeError(got, want.map((x) => x / weight)) < 1e-10);
  assert(relativeError(moments, want.map((x) => x / weight)) > 0.1, "turning matters");
});

Deno.test("addMoments() takes the heads of a group together, from an offset", () => {
  const rows = new Float32Array(2 * 7);
  rows.set([1, 2, 3, 4, 5, 6], 1);
  const sums = new Float64Array(4);
  addMoments(sums, rows.subarray(0, 7), { headDim: 2, group: 3, stride: 7, offset: 1 });
  assertEquals([...sums], [1 + 9 + 25, 2 + 12 + 30, 2 + 12 + 30, 4 + 16 + 36]);
});

Deno.test("metricRoots() squared are the metrics, scaled, with their floor", () => {
  const metrics = new Float64Array(3 * D * D);
  addMoments(metrics.subarray(0, D * D), queries(60, 1, 2), { headDim: D, group: 1, stride: D });
  metrics[D * D] = 5; // a metric with one direction; the third is zero
  const roots = metricRoots(metrics, D),
    squared = (head: number): Float64Array => {
      const root = headMetric(roots, head, D);
      return timesMatrix(root, root, D);
    };
  const trace = (x: Float64Array): number => x.reduce((sum, y, i) => sum + (i % (D + 1) === 0 ? y : 0), 0);
  const first = squared(0), scaled = metrics.slice(0, D * D).map((x) => x * D / trace(metrics.slice(0, D * D)));
  assert(relativeError(first, scaled) < 0.02, "the floor changes little");
  const second = squared(1), largest = D / (1 + 0.003 * (D - 1));
  for (let i = 0; i < D; i++) assertAlmostEquals(second[i * (D + 1)]!, i === 0 ? largest : 0.003 * largest, 0.01);
  assertEquals([...squared(2)], Array.from({ length: D * D }, (_, i) => i % (D + 1) === 0 ? 1 : 0));
  const root = headMetric(roots, 0, D), one = timesMatrix(root, inverted(root, D), D);
  for (let i = 0; i < D * D; i++) assertAlmostEquals(one[i]!, i % (D + 1) === 0 ? 1 : 0, 1e-9);
});

Deno.test("expectMetric() refuses ties, and roots that mix what groups keep apart", () => {
  const groups: CodecShape = { headDim: D, stages: [...pairStages(D, 1, false).stages, { kind: "sub", pairs: D / 4 }] };
  const metrics = new Float64Array(D * D);
  addMoments(metrics, queries(60, 1, 2), { headDim: D, group: 1, stride: D });
  const whole = metricRoots(metrics, D), cut = metricRoots(metrics, D, metricCell(groups));
  expectMetric(pairStages(D, 2, false), whole);
  expectMetric(groups, cut);
  assertThrows(() => expectMetric(groups, whole), RangeError, `more than ${D / 4} pairs`);
  assertThrows(() => expectMetric(pairStages(D, 2, true)), RangeError, "no stage may be tied");
});

Deno.test("metricCell() is the smallest group, or the head", () => {
  assertEquals(metricCell(pairStages(64, 2, false)), 32);
  assertEquals(metricCell({ headDim: 64, stages: [{ kind: "sub", pairs: 16 }, { kind: "sub", pairs: 8 }] }), 8);
});
