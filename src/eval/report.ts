/**
 * An evaluation for people: JSON, Markdown, charts, and a page that holds them.
 *
 * @module
 */
import type { Evaluation, MethodFigures } from "./evaluate.ts";
import { escapeText, heatMap, heatMaps, plot, type Point, type ShareGrid } from "./plot.ts";
import { chanceOfLosing, type Difference } from "./stats.ts";

/** Files of a report, by name. */
export function reportFiles(evaluation: Evaluation): Record<string, string> {
  const charts = reportCharts(evaluation);
  return {
    "evaluation.json": `${JSON.stringify(evaluation, null, 1)}\n`,
    "evaluation.md": reportMarkdown(evaluation),
    ...Object.fromEntries(Object.entries(charts).map(([name, chart]) => [`${name}.svg`, `${chart}\n`])),
    "index.html": reportPage(evaluation, charts),
  };
}

/** Fewer answers at a depth than this say little. */
const ENOUGH = 8;

const depthName = (fifth: number): string => `${20 * fifth}–${20 * fifth + 20} %`;

/** A table's head and rows; numbers are aligned to the right. */
interface Table {
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

const fixed = (v: number, digits: number): string => Number.isFinite(v) ? v.toFixed(digits) : "–";
const share = (v: number | undefined): string => v === undefined || !Number.isFinite(v) ? "–" : v.toFixed(3);

/** Small numbers with three digits, and none where there is nothing. */
function small(v: number): string {
  if (!Number.isFinite(v)) return "–";
  return v === 0 ? "0" : Math.abs(v) < 1e-3 ? v.toExponential(2) : v.toPrecision(3);
}

function interval({ mean, low, high }: Difference, scale = 1, digits = 1): string {
  if (!Number.isFinite(mean)) return "–";
  const signed = (v: number): string => `${v < 0 ? "−" : "+"}${Math.abs(v * scale).toFixed(digits)}`;
  return `${signed(mean)} [${signed(low)}, ${signed(high)}]`;
}

/** One sentence on how the figures came to be. */
export function protocolOf({ regime, window, sinks, documents, chunkTokens, tokensScored }: Evaluation): string {
  const when = regime === "chunked"
    ? "all queries of a text see the compressed cache, so errors compound"
    : "the first half of a text is read exactly, the rest from the compressed cache";
  const texts = documents > 0
    ? `${documents} texts of up to ${chunkTokens} tokens, ${tokensScored.toLocaleString("en")} predictions: ${when}. `
    : "";
  return `${texts}In tasks, queries see the compressed cache from the first answer on. A query at t sees exact keys and ` +
    `values at s > t − ${window} and s < ${sinks}, compressed ones elsewhere, in all layers at once.`;
}

function figuresTable({ methods, base }: Evaluation): Table {
  const head = [
    "method",
    "b_code",
    "b_eff",
    "b_all",
    "perplexity",
    `loss over ${base}, mnat`,
    "KL mean",
    "KL p99",
    "top-1",
  ];
  return {
    head: [...head, "context kept"],
    rows: methods.map((m) => [
      ...[m.name, fixed(m.bitsCode, 2), fixed(m.bitsEffective, 2), fixed(m.bitsAll, 2)],
      ...[fixed(m.perplexity, 2), interval(m.overBase.nll, 1e3), small(m.kl.mean), small(m.kl.p99)],
      ...[share(m.top1), fixed(m.contextKept, 2)],
    ]),
  };
}

function detailsTable({ methods, base }: Evaluation): Table {
  const top1 = ["< 0.1", "0.1 to 0.3", "> 0.3"].map((margin) => `top-1, margin ${margin}`);
  return {
    head: ["method", "perplexity, second half", `KL over ${base}, mnat`, "KL median", "KL p99.9", ...top1],
    rows: methods.map((m) => [
      ...[m.name, fixed(m.perplexitySecondHalf, 2), interval(m.overBase.kl, 1e3), small(m.kl.median), small(m.kl.p999)],
      ...[m.top1ByMargin.below10, m.top1ByMargin.below30, m.top1ByMargin.above30].map(share),
    ]),
  };
}

function tasksTable({ methods, cells }: Evaluation): Table {
  const tested = methods.filter((m) => Object.keys(m.tasks).length > 0);
  return {
    head: ["cell", "tokens", "answers", ...tested.map((m) => m.name)],
    rows: Object.entries(cells).map(([cell, { answers, tokens, tells }]) => [
      tells ? cell : `${cell} †`,
      ...[tokens, answers].map((count) => count.toLocaleString("en")),
      ...tested.map((m) => fixed(m.tasks[cell]!, 2)),
    ]),
  };
}

/** Shares by depth, of cells with enough answers at each. */
function depthTable({ methods, cells }: Evaluation): Table {
  const tested = methods.filter((m) => m.depths.length > 0), all = tested[0]?.depths ?? [];
  const rows = Object.entries(cells).filter(([, { tells }]) => tells).flatMap(([cell, { tokens }]) => {
    const own = all.filter((d) => d.cell === cell);
    if (own.length < 2 || own.reduce((sum, d) => sum + d.all, 0) < ENOUGH * own.length) return [];
    return own.map(({ fifth, all }) => [
      ...[cell, tokens.toLocaleString("en"), depthName(fifth), String(all)],
      ...tested.map((m) => {
        const { right } = m.depths.find((d) => d.cell === cell && d.fifth === fifth)!;
        return fixed(right / all, 2);
      }),
    ]);
  });
  return { head: ["cell", "tokens", "depth", "answers", ...tested.map((m) => m.name)], rows };
}

function layersTable({ methods }: Evaluation): Table {
  const measured = methods.filter((m) => m.name !== "fp16" && m.keyNmse.length > 0),
    mean = (x: readonly number[]): string => small(x.reduce((a, b) => a + b, 0) / x.length);
  return {
    head: [
      "method",
      "key NMSE, mean",
      "worst layer",
      "value NMSE, mean",
      "worst layer",
      "attention output, mean",
      "worst layer",
    ],
    rows: measured.map((m) => [
      m.name,
      ...[m.keyNmse, m.valueNmse, m.outputError].flatMap((x) => [mean(x), small(Math.max(...x))]),
    ]),
  };
}

/**
 * The shortest cell in which a method loses more answers of the exact cache than chance would (once in 40), as a sentence.
 * Cells that the anchor passes, or that the model itself fails, do not count.
 */
export function firstFailure(method: MethodFigures, { methods, cells }: Evaluation): string {
  const exact = methods.find((m) => m.name === "fp16")!, length = (cell: string): number => cells[cell]!.tokens;
  const telling = Object.keys(cells).filter((cell) => cells[cell]!.tells && method.answers[cell]);
  if (telling.length === 0) return "";
  const failed = telling.filter((cell) => {
    const { lost, gained } = method.answers[cell]!;
    return chanceOfLosing(lost, gained) < 0.025;
  }).toSorted((a, b) => length(a) - length(b));
  const [first] = failed, tokens = (cell: string): string => `${length(cell).toLocaleString("en")} tokens`;
  if (first === undefined) {
    const longest = telling.toSorted((a, b) => length(b) - length(a))[0]!;
    return `${method.name}: loses no more than chance would in any telling cell, up to ${tokens(longest)} (${longest})`;
  }
  const { right, all } = method.answers[first]!;
  return `${method.name}: fails first at ${tokens(first)}, in ${first}: ${right} of ${all} answers right, ` +
    `${
      exact.answers[first]!.right
    } by the exact cache; it fails in ${failed.length} of ${telling.length} telling cells`;
}

function failures(evaluation: Evaluation): string[] {
  const judged = evaluation.methods.filter((m) => m.name !== "fp16" && m.name !== "0bit");
  return judged.map((m) => firstFailure(m, evaluation)).filter(Boolean);
}

function notes({ cells }: Evaluation): string[] {
  return Object.entries(cells).filter(([, { tells }]) => !tells).map(([cell, { note }]) => `${cell}: ${note}`);
}

/** A table that reads as text, too. */
function markdownTable({ head, rows }: Table): string {
  const widths = head.map((_, c) => Math.max(3, ...[head, ...rows].map((row) => row[c]!.length)));
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, c) => c ? cell.padStart(widths[c]!) : cell.padEnd(widths[c]!)).join(" | ")} |`;
  const rule = widths.map((width, c) => c ? `${"-".repeat(width - 1)}:` : "-".repeat(width));
  return [line(head), line(rule), ...rows.map(line)].join("\n");
}

const FAILS = "What fails first, and at which length";

/** The tables and what they rest on. */
export function reportMarkdown(evaluation: Evaluation): string {
  const { model, device, seconds, methods } = evaluation, parts = [`# What compression does to ${model}`];
  parts.push(protocolOf(evaluation));
  if (evaluation.documents > 0) {
    parts.push(markdownTable(figuresTable(evaluation)), markdownTable(detailsTable(evaluation)));
  }
  const failed = failures(evaluation), telling = notes(evaluation), depths = depthTable(evaluation);
  if (Object.keys(evaluation.cells).length > 0) {
    parts.push("## Tasks", markdownTable(tasksTable(evaluation)));
    if (telling.length > 0) parts.push(`† proves nothing: ${telling.join("; ")}.`);
  }
  if (depths.rows.length > 0) parts.push("### By depth", markdownTable(depths));
  if (failed.length > 0) parts.push(`## ${FAILS}`, failed.map((f) => `- ${f}`).join("\n"));
  const layers = layersTable(evaluation);
  if (layers.rows.length > 0) {
    parts.push("## By layer", "Given exact inputs, on the first text.", markdownTable(layers));
  }
  parts.push("## Methods", methods.map((m) => `- \`${m.name}\`: ${m.about}`).join("\n"));
  parts.push(`Measured on ${device} in ${seconds.toFixed(0)} s.`);
  return `${parts.join("\n\n")}\n`;
}

/** What methods of one kind have in common. */
function familyOf(name: string): string {
  return name.replace(/[\d_].*?(?=\+|$)/, "");
}

/** Charts by file name. */
export function reportCharts(evaluation: Evaluation): Record<string, string> {
  const { methods, documents, cells, regime, window, sinks } = evaluation, charts: Record<string, string> = {};
  const exact = methods.find((m) => m.name === "fp16")!, others = methods.filter((m) => m !== exact);
  const setting = `${regime}, window ${window}, ${sinks} sinks`, bits = "bits an element, window and sinks included";
  const points = (y: (m: MethodFigures) => number): Point[] =>
    others.map((m) => ({ x: m.bitsEffective, y: y(m), label: m.name, series: familyOf(m.name) }));
  if (documents > 0) {
    charts.perplexity = plot(
      points((m) => m.perplexity),
      { title: "Perplexity against bits", note: `Lower is better; ${setting}`, x: bits, y: "perplexity" },
      {
        most: 1.5 * exact.perplexity,
        rule: { y: exact.perplexity, label: `exact cache ${exact.perplexity.toFixed(2)}` },
      },
    );
    charts.kl = plot(
      points((m) => m.kl.mean),
      {
        title: "Divergence from the exact cache against bits",
        note: `Lower is better; ${setting}`,
        x: bits,
        y: "mean KL, nats",
      },
      { logY: true },
    );
    const bins = exact.perplexityByPosition;
    charts.position = plot(
      others.flatMap((m) =>
        m.perplexityByPosition.map(({ from, perplexity }, i) => ({
          x: from || 64,
          y: perplexity / bins[i]!.perplexity,
          label: m.name,
          series: m.name,
        }))
      ),
      {
        title: "Perplexity over the exact cache's, by position",
        note: "Bins begin at 0 (drawn at 64), 128, 256 and so on, doubling",
        x: "first position of the bin",
        y: "ratio",
      },
      { logX: true, most: 1.5, rule: { y: 1, label: "exact cache" }, endLabels: true },
    );
  }
  const tested = methods.filter((m) => Object.keys(m.tasks).length > 0), names = Object.keys(cells);
  if (names.length > 0) {
    charts.tasks = heatMap({
      title: "Exact answers, by kind of task and length",
      rows: tested.map((m) => m.name),
      columns: names,
      values: tested.map((m) => names.map((cell) => m.tasks[cell])),
      pale: names.map((cell) => !cells[cell]!.tells),
    }, "Share of answers right to the last token; pale columns prove nothing (see the notes)");
    const chars = [...new Set(exact.depths.map((d) => d.chars))].toSorted((a, b) => a - b);
    if (chars.length > 0) {
      charts.depth = heatMaps(tested.map((m) => depthGrid(m, chars)), {
        title: "Retrieval, by length and depth",
        note: "Share of answers right, by where in the text the fact stood",
        x: "length in characters",
        y: "depth",
      });
    }
  }
  return charts;
}

function depthGrid(method: MethodFigures, chars: readonly number[]): ShareGrid {
  const fifths = [0, 1, 2, 3, 4];
  return {
    title: method.name,
    rows: fifths.map(depthName),
    columns: chars.map((c) => c >= 1000 ? `${number(c / 1000)}k` : String(c)),
    values: fifths.map((f) =>
      chars.map((c) => {
        const found = method.depths.filter((d) => d.chars === c && d.fifth === f);
        const sum = (of: "right" | "all"): number => found.reduce((sum, d) => sum + d[of], 0);
        return found.length > 0 ? sum("right") / sum("all") : undefined;
      })
    ),
  };
}

const number = (v: number): string => String(Number(v.toPrecision(2)));

function htmlTable({ head, rows }: Table): string {
  const row = (cells: readonly string[], tag: string): string =>
    `<tr>${cells.map((cell) => `<${tag}>${escapeText(cell)}</${tag}>`).join("")}</tr>`;
  return `<div class="scroll"><table><thead>${row(head, "th")}</thead><tbody>${
    rows.map((cells) => row(cells, "td")).join("")
  }</tbody></table></div>`;
}

const STYLE = `
:root { color-scheme: light; --ink: #1b1f24; --muted: #6b7280; --line: #e3e6ea; --accent: #0f766e; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f8; color: var(--ink); font: 15px/1.55 ui-sans-serif, system-ui, -apple-system, "Segoe UI",
  "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 44px 0 12px; }
p { max-width: 78ch; }
.lead, .muted { color: var(--muted); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 12px; margin: 24px 0; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.card b { display: block; font-size: 22px; letter-spacing: -0.01em; }
.card span { color: var(--muted); font-size: 13px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(540px, 1fr)); gap: 16px; }
figure { margin: 0 0 16px; background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 8px; overflow-x: auto; }
figure svg { display: block; max-width: 100%; height: auto; margin: 0 auto; }
.scroll { overflow-x: auto; background: #fff; border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--muted); background: #fafbfb; position: sticky; top: 0; }
th:first-child, td:first-child { text-align: left; font-weight: 600; color: var(--ink); position: sticky; left: 0; background: #fff; }
tbody tr:last-child td { border-bottom: 0; }
tbody tr:hover td { background: #f1f7f6; }
li { margin: 3px 0; }
.gap { height: 16px; }
code { font: 13px ui-monospace, "SF Mono", Menlo, monospace; }
@media (max-width: 620px) { .charts { grid-template-columns: 1fr; } }
`;

function reportPage(evaluation: Evaluation, charts: Readonly<Record<string, string>>): string {
  const { model, device, seconds, methods, documents, tokensScored, base } = evaluation;
  const exact = methods.find((m) => m.name === "fp16")!, cells = Object.values(evaluation.cells);
  const figure = (name: string): string => charts[name] ? `<figure>${charts[name]}</figure>` : "";
  const card = (value: string, what: string): string =>
    `<div class="card"><b>${escapeText(value)}</b><span>${escapeText(what)}</span></div>`;
  const list = (items: readonly string[]): string =>
    `<ul>${items.map((i) => `<li>${escapeText(i)}</li>`).join("")}</ul>`;
  const failed = failures(evaluation), telling = notes(evaluation), layers = layersTable(evaluation);
  const parts = [
    `<h1>What compression does to ${escapeText(model)}</h1>`,
    `<p class="lead">${escapeText(protocolOf(evaluation))}</p>`,
    `<div class="cards">`,
    card(String(methods.length), "methods, the exact cache and the 0-bit anchor among them"),
    documents > 0 ? card(tokensScored.toLocaleString("en"), `predictions in ${documents} texts`) : "",
    documents > 0 ? card(fixed(exact.perplexity, 2), "perplexity with the exact cache") : "",
    cells.length > 0
      ? card(
        String(cells.reduce((sum, c) => sum + c.answers, 0)),
        `answers in ${cells.length} ${cells.length === 1 ? "cell" : "cells"} of tasks`,
      )
      : "",
    `</div>`,
    documents > 0 ? `<div class="charts">${figure("perplexity")}${figure("kl")}</div>` : "",
    documents > 0 ? `<h2>Figures</h2>${htmlTable(figuresTable(evaluation))}` : "",
    documents > 0
      ? `<p class="muted">b_code: codes and scales, bits an element. b_eff: with the exact window and sinks. b_all: with codebooks, ` +
        `for one such text. Loss over ${
          escapeText(base)
        }: paired by text, with its 95 % bootstrap interval. Context kept: how much ` +
        `of what far context is worth to the model survives, 1 for the exact cache, 0 for the anchor.</p>`
      : "",
    documents > 0 ? htmlTable(detailsTable(evaluation)) : "",
    documents > 0 ? `<div class="gap"></div>${figure("position")}` : "",
    cells.length > 0 ? `<h2>Tasks</h2>${figure("tasks")}${htmlTable(tasksTable(evaluation))}` : "",
    telling.length > 0 ? `<p class="muted">† proves nothing. ${escapeText(telling.join("; "))}.</p>` : "",
    charts.depth ? `<div class="gap"></div>${figure("depth")}` : "",
    failed.length > 0 ? `<h2>${FAILS}</h2>${list(failed)}` : "",
    layers.rows.length > 0
      ? `<h2>By layer</h2><p class="muted">Given exact inputs, on the first text.</p>${htmlTable(layers)}`
      : "",
    `<h2>Methods</h2><ul>${
      methods.map((m) => `<li><code>${escapeText(m.name)}</code> ${escapeText(m.about)}</li>`).join("")
    }</ul>`,
    `<p class="muted">Measured on ${escapeText(device)} in ${seconds.toFixed(0)} s.</p>`,
  ];
  return `<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">` +
    `<title>What compression does to ${escapeText(model)}</title><style>${STYLE}</style></head>\n<body><main>\n${
      parts.filter(Boolean).join("\n")
    }\n</main></body></html>\n`;
}
