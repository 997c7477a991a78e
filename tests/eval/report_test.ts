import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { CellFigures, CellNote, Evaluation, MethodFigures } from "../../mod.ts";
import { plot } from "../../src/eval/plot.ts";
import { firstFailure, reportFiles } from "../../src/eval/report.ts";

const LENGTHS = { "needles@9000": 2400, "passkey@4000": 1100, "copy@200": 60, "sums@100": 30 };
const NOTES: Record<string, string> = { "sums@100": "the window and the sinks alone answer 40 of 40" };

/** A method with so many of 40 answers right in each cell, those of pass keys half at either end. */
function method(name: string, right: Record<string, number>): MethodFigures {
  const all = 40, answers: Record<string, CellFigures> = {};
  for (const cell in right) answers[cell] = { right: right[cell]!, all, lost: all - right[cell]!, gained: 0 };
  const half = Math.ceil(right["passkey@4000"]! / 2), none = { lost: 0, gained: 0 };
  const at = (fifth: number, right: number) => ({ cell: "passkey@4000", chars: 4000, fifth, right, all: 20, ...none });
  return {
    ...{ name, about: "", bitsCode: 2, bitsEffective: 2, bitsAll: 2, sharedBytes: 0, contextKept: 1, answers },
    ...{ perplexity: NaN, perplexitySecondHalf: NaN, perplexityByPosition: [], top1: NaN, keyNmse: [], valueNmse: [] },
    ...{ outputError: [], kl: { mean: NaN, median: NaN, p99: NaN, p999: NaN } },
    top1ByMargin: { below10: NaN, below30: NaN, above30: NaN },
    tasks: Object.fromEntries(Object.entries(right).map(([cell, count]) => [cell, count / all])),
    depths: [at(0, right["passkey@4000"]! - half), at(4, half)],
    overBase: Object.fromEntries(
      ["nll", "kl", "answers"].map((of) => [of, { mean: NaN, low: NaN, high: NaN }]),
    ) as unknown as MethodFigures["overBase"],
  };
}

const right = (needles: number, passkey: number, copy: number, sums: number) => ({
  ...{ "needles@9000": needles, "passkey@4000": passkey, "copy@200": copy, "sums@100": sums },
});
const cells = Object.fromEntries(
  Object.entries(LENGTHS).map(([cell, tokens]): [string, CellNote] => {
    const note = NOTES[cell] ?? "";
    return [cell, { answers: 40, tokens, tells: note === "", note }];
  }),
);
const evaluation: Evaluation = {
  ...{ model: "m", device: "d", regime: "chunked", window: 64, sinks: 4, tokensScored: 0, documents: 0, cells },
  ...{ chunkTokens: 4096, base: "fp16", seconds: 1 },
  methods: [
    method("fp16", right(40, 40, 40, 40)),
    method("fair", right(38, 36, 39, 0)),
    method("poor", right(3, 25, 39, 40)),
    method("0bit", right(0, 0, 0, 40)),
  ],
};

Deno.test("firstFailure() names the shortest telling cell that loses more than chance", () => {
  const [, fair, poor] = evaluation.methods;
  assertEquals(
    firstFailure(poor!, evaluation),
    "poor: fails first at 1,100 tokens, in passkey@4000: 25 of 40 answers right, 40 by the exact cache; it fails in 2 of 3 " +
      "telling cells",
  );
  // Four lost and none gained happen once in 16 by chance; sums, which the anchor passes, do not count.
  assertEquals(
    firstFailure(fair!, evaluation),
    "fair: loses no more than chance would in any telling cell, up to 2,400 tokens (needles@9000)",
  );
});

Deno.test("a report of tasks alone has a table by depth, and what fails first", () => {
  const { "evaluation.md": markdown, "index.html": page, ...charts } = reportFiles(evaluation);
  assert(/passkey@4000 +\| +1,100 +\| +0–20 % +\| +20 +\| 1\.00 \| 0\.90 \| 0\.60 \| 0\.00/.test(markdown!), markdown);
  for (const text of [markdown!, page!]) {
    assertStringIncludes(text, "What fails first, and at which length");
    assertStringIncludes(text, "poor: fails first at 1,100 tokens");
    assert(!/0bit: |NaN|undefined/.test(text), text);
  }
  assertEquals(Object.keys(charts).sort(), ["depth.svg", "evaluation.json", "tasks.svg"]);
});

Deno.test("plot() keeps names at the right edge apart, in order, and off the axis below", () => {
  const points = [1, 1.001, 1.002, 1.003, 1.3].flatMap((y, s) =>
    [1, 2].map((x) => ({ x, y, label: `name${s}`, series: `name${s}` }))
  );
  const chart = plot(points, { title: "t", x: "x", y: "y" }, { endLabels: true, rule: { y: 1, label: "level" } });
  const places = [...chart.matchAll(/<text x="(\d+\.\d)" y="(\d+\.\d)"[^>]*>(name\d|level)</g)]
    .map(([, x, y, name]) => ({ x: Number(x), y: Number(y), name })).toSorted((a, b) => a.y - b.y);
  assertEquals(places.map(({ name }) => name).slice(0, 4), ["name4", "name3", "name2", "name1"]);
  for (let i = 1; i < places.length; i++) assert(places[i]!.y - places[i - 1]!.y > 14.8, JSON.stringify(places));
  assert(places.length === 6 && places.at(-1)!.y < 430 - 50, JSON.stringify(places));
});

Deno.test("plot() is as wide as its title", () => {
  const title = "a title that is far longer than a chart of no points at all would be wide by itself, and then some";
  assert(Number(/width="(\d+)"/.exec(plot([], { title, x: "", y: "" }))![1]) > 8 * title.length);
});
