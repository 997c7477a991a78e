/**
 * Charts as SVG text: points against bits, lines, and heat maps of shares.
 *
 * @module
 */

const INK = "#1b1f24", MUTED = "#6b7280", GRID = "#e7e9ed", PAPER = "#ffffff";
const COLOURS = [
  ...["#0f766e", "#c2410c", "#1d4ed8", "#be123c", "#7c3aed", "#4d7c0f", "#0891b2", "#a21caf", "#a16207", "#475569"],
  ...["#db2777", "#15803d"],
];
const FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif";

/** Text made safe for SVG and HTML. */
export function escapeText(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

/** What a chart says on its edges. */
export interface ChartText {
  readonly title: string;
  /** A sentence below the title. */
  readonly note?: string;
  readonly x: string;
  readonly y: string;
}

/** One named point. Points of one series share a colour and are joined by a line. */
export interface Point {
  readonly x: number;
  readonly y: number;
  readonly label: string;
  readonly series: string;
}

/** How a chart of points is drawn. */
export interface PlotOptions {
  /** Decades in place of even steps upward, and doublings to the right. */
  readonly logY?: boolean;
  readonly logX?: boolean;
  /** The largest number shown; what lies above stands at the upper edge, with its value. */
  readonly most?: number;
  /** A level to compare with, drawn across. */
  readonly rule?: { readonly y: number; readonly label: string };
  /** Labels only the last point of each series. */
  readonly endLabels?: boolean;
}

type Anchor = "start" | "middle" | "end";

interface LabelOptions {
  readonly size?: number;
  readonly fill?: string;
  readonly anchor?: Anchor;
  readonly weight?: number;
  readonly turn?: number;
  /** A rim in the paper's colour, so that lines do not cross the letters. */
  readonly rim?: boolean;
}

function label(x: number, y: number, text: string, options: LabelOptions = {}): string {
  const { size = 12, fill = INK, anchor = "start", weight, turn, rim } = options,
    at = `${x.toFixed(1)} ${y.toFixed(1)}`;
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" font-size="${size}" fill="${fill}" text-anchor="${anchor}"` +
    `${rim ? ` stroke="${PAPER}" stroke-width="4" stroke-linejoin="round" paint-order="stroke"` : ""}` +
    `${weight ? ` font-weight="${weight}"` : ""}${turn ? ` transform="rotate(${turn} ${at})"` : ""}>${
      escapeText(text)
    }</text>`;
}

function line(x1: number, y1: number, x2: number, y2: number, stroke = GRID, rest = ""): string {
  const [a, b, c, d] = [x1, y1, x2, y2].map((v) => v.toFixed(1));
  return `<line x1="${a}" y1="${b}" x2="${c}" y2="${d}" stroke="${stroke}" ${rest}/>`;
}

/** A chart, at least as wide as what stands above it. */
function svg(least: number, height: number, { title, note = "" }: ChartText, parts: readonly string[]): string {
  const width = Math.max(least, 48 + 9.2 * title.length, 48 + 6.6 * note.length);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width.toFixed(0)} ${height.toFixed(0)}" width="${
      width.toFixed(0)
    }" height="${height.toFixed(0)}" role="img" font-family="${FONT}">`,
    `<title>${escapeText(title)}</title>`,
    `<rect width="100%" height="100%" fill="${PAPER}"/>`,
    label(24, 32, title, { size: 16, weight: 650 }),
    note ? label(24, 52, note, { fill: MUTED }) : "",
    ...parts,
    "</svg>",
  ].filter(Boolean).join("\n");
}

const number = (v: number): string =>
  v !== 0 && (Math.abs(v) < 1e-3 || Math.abs(v) >= 1e5)
    ? v.toExponential(0)
    : String(Number(v.toPrecision(Math.abs(v) >= 1000 ? 5 : 3)));

/** Where a number lies on an axis, and the marks on it. */
interface Axis {
  readonly at: (v: number) => number;
  readonly marks: readonly number[];
}

/** An axis of even steps or, with a `base`, of its powers. */
function axis(low: number, high: number, from: number, to: number, base?: number): Axis {
  if (base) {
    const log = (v: number): number => Math.log(v) / Math.log(base);
    const first = Math.floor(log(low) + 1e-9), last = Math.max(first + 1, Math.ceil(log(high) - 1e-9));
    const at = (v: number): number => from + (log(v) - first) / (last - first) * (to - from);
    return { at, marks: Array.from({ length: last - first + 1 }, (_, i) => base ** (first + i)) };
  }
  const rough = Math.max(high - low, 1e-9) / 6, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((s) => s * power >= rough * 0.999)! * power;
  const first = Math.floor(low / step + 1e-9) * step, last = Math.ceil(high / step - 1e-9) * step;
  const at = (v: number): number => from + (v - first) / (last - first) * (to - from), marks = [];
  for (let v = first; v <= last + step / 1e6; v += step) marks.push(v);
  return { at, marks };
}

/** A chart of labelled points, those of a series joined. Numbers that are not finite, or not positive on decades, are left out. */
export function plot(points: readonly Point[], text: ChartText, options: PlotOptions = {}): string {
  const { logX = false, logY = false, most = Infinity, rule, endLabels = false } = options;
  const width = 640, height = 430, left = 78, right = width - (endLabels ? 150 : 36), top = 76, bottom = height - 64;
  const shown = points.filter(({ x, y }) =>
    Number.isFinite(x) && Number.isFinite(y) && (!logY || y > 0) && (!logX || x > 0)
  );
  if (shown.length === 0) return svg(width, 110, text, [label(24, 84, "nothing to show", { fill: MUTED })]);
  const ys = [...shown.map(({ y }) => Math.min(y, most)), ...rule ? [rule.y] : []], xs = shown.map(({ x }) => x);
  const x = axis(logX ? Math.min(...xs) : 0, Math.max(...xs), left, right, logX ? 2 : undefined);
  const lowest = Math.min(...ys), room = rule ? 0.07 * (Math.max(...ys) - lowest) : 0; // for the rule's name, below it
  const y = axis(lowest - room, Math.max(...ys), bottom, top, logY ? 10 : undefined), parts: string[] = [];
  for (const mark of x.marks) {
    parts.push(line(x.at(mark), top, x.at(mark), bottom));
    parts.push(label(x.at(mark), bottom + 20, number(mark), { fill: MUTED, anchor: "middle" }));
  }
  for (const mark of y.marks) {
    parts.push(line(left, y.at(mark), right, y.at(mark)));
    parts.push(label(left - 10, y.at(mark) + 4, number(mark), { fill: MUTED, anchor: "end" }));
  }
  if (rule) {
    parts.push(line(left, y.at(rule.y), right, y.at(rule.y), INK, 'stroke-dasharray="5 4" stroke-opacity="0.65"'));
  }
  const series = [...new Set(shown.map((p) => p.series))], dots: Dot[] = [];
  if (rule && endLabels) dots.push({ x: right, y: y.at(rule.y), text: rule.label, colour: INK });
  else if (rule) parts.push(label(right, y.at(rule.y) + 15, rule.label, { anchor: "end", rim: true }));
  series.forEach((name, s) => {
    const colour = COLOURS[s % COLOURS.length]!,
      own = shown.filter((p) => p.series === name).toSorted((a, b) => a.x - b.x);
    const placed = own.map((p) => ({ x: x.at(p.x), y: y.at(Math.min(p.y, most)), off: p.y > most, point: p }));
    const inside = placed.filter(({ off }) => !off);
    if (inside.length > 1) {
      const path = inside.map((p, i) => `${i ? "L" : "M"}${p.x.toFixed(1)} ${p.y.toFixed(1)}`).join("");
      parts.push(`<path d="${path}" fill="none" stroke="${colour}" stroke-width="1.75" stroke-opacity="0.55"/>`);
    }
    placed.forEach(({ x, y, off, point }, i) => {
      parts.push(
        off
          ? `<path d="M${(x - 6).toFixed(1)} ${(y + 5).toFixed(1)}h12l-6 -11z" fill="${colour}"/>`
          : `<circle cx="${x.toFixed(1)}" cy="${
            y.toFixed(1)
          }" r="5" fill="${colour}" stroke="${PAPER}" stroke-width="1.5"/>`,
      );
      const last = i === placed.length - 1, name = off ? `${point.label} ${number(point.y)}` : point.label;
      dots.push({ x, y, text: endLabels && !last ? "" : name, colour });
    });
  });
  const area = { left: left + 2, right: width - 8, top, bottom, rule: rule ? y.at(rule.y) : Infinity };
  parts.push(...(endLabels ? stackLabels(dots, right + 22, bottom) : placeLabels(dots, area)));
  parts.push(label((left + right) / 2, height - 18, text.x, { size: 13, anchor: "middle" }));
  parts.push(label(26, (top + bottom) / 2, text.y, { size: 13, anchor: "middle", turn: -90 }));
  return svg(width, height, text, parts);
}

interface Dot {
  readonly x: number;
  readonly y: number;
  readonly text: string;
  readonly colour: string;
}

interface Box {
  readonly x0: number;
  readonly x1: number;
  readonly y: number;
}

/** Labels in a column at `x`, none below `bottom`, as near their dots as they can stand apart, and lines that lead to them. */
function stackLabels(dots: readonly Dot[], x: number, bottom: number): string[] {
  const named = dots.filter(({ text }) => text !== "").toSorted((a, b) => a.y - b.y), apart = 15;
  const blocks: { y: number; count: number }[] = []; // of labels that touch: the first one's place
  named.forEach(({ y }) => {
    let block = { y, count: 1 };
    for (let last = blocks.at(-1); last && last.y + apart * last.count > block.y; last = blocks.at(-1)) {
      const count = last.count + block.count, sum = last.count * last.y + block.count * (block.y - apart * last.count);
      block = { y: sum / count, count };
      blocks.pop();
    }
    blocks.push(block);
  });
  const ys = blocks.flatMap(({ y, count }) => Array.from({ length: count }, (_, i) => y + apart * i));
  for (let i = ys.length - 1, floor = bottom + 4; i >= 0; i--, floor = ys[i + 1]! - apart) {
    ys[i] = Math.min(ys[i]!, floor);
  }
  return named.flatMap((dot, i) => [
    line(dot.x + 6, dot.y, x - 4, ys[i]!, dot.colour, 'stroke-opacity="0.35"'),
    label(x, ys[i]! + 4, dot.text, { fill: dot.colour, weight: 550 }),
  ]);
}

/** Where labels may stand; below the rule, at the right, stands its name. */
interface Area {
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
  readonly rule: number;
}

/** Labels beside their dots, where they cover no dot and no other label. */
function placeLabels(dots: readonly Dot[], { left, right, top, bottom, rule }: Area): string[] {
  const taken: Box[] = dots.map(({ x, y }) => ({ x0: x - 8, x1: x + 8, y }));
  taken.push({ x0: right - 170, x1: right, y: rule + 11 });
  return dots.toSorted((a, b) => a.y - b.y).flatMap(({ x, y, text, colour }) => {
    if (text === "") return [];
    const wide = text.length * 8.4, tries: Box[] = [];
    for (const dy of [0, -13, 13, -20, 20, -30, 30, -42, 42]) {
      tries.push({ x0: x + 11, x1: x + 11 + wide, y: y + dy }, { x0: x - 11 - wide, x1: x - 11, y: y + dy });
      if (dy) tries.push({ x0: x - wide / 2, x1: x + wide / 2, y: y + dy });
    }
    const free = (box: Box): boolean =>
      box.x0 > left && box.x1 < right && box.y > top - 8 && box.y < bottom + 4 &&
      taken.every((t) => t.x1 < box.x0 || t.x0 > box.x1 || Math.abs(t.y - box.y) >= 13);
    const box = tries.find(free) ?? tries[0]!;
    taken.push(box);
    const beside = box.x1 < x ? { at: box.x1, anchor: "end" as const } : { at: box.x0, anchor: "start" as const };
    return label(beside.at, box.y + 4, text, { fill: colour, weight: 550, anchor: beside.anchor, rim: true });
  });
}

/** A table of shares (0 to 1), `undefined` where nothing was measured. */
export interface ShareGrid {
  readonly title: string;
  readonly rows: readonly string[];
  readonly columns: readonly string[];
  readonly values: readonly (readonly (number | undefined)[])[];
  /** Columns that say nothing, drawn pale. */
  readonly pale?: readonly boolean[];
}

/** Colour of a share: from a warm pale to a deep green, even in lightness. */
function shade(share: number): string {
  const stops = [[247, 222, 209], [250, 240, 213], [196, 226, 209], [104, 184, 164], [15, 118, 110]] as const;
  const at = Math.max(0, Math.min(1, share)) * (stops.length - 1), i = Math.min(stops.length - 2, Math.floor(at));
  const mix = stops[i]!.map((v, c) => Math.round(v + (at - i) * (stops[i + 1]![c]! - v)));
  return `rgb(${mix.join(" ")})`;
}

function cells(grid: ShareGrid, x0: number, y0: number, wide: number, high: number, size: number): string[] {
  return grid.rows.flatMap((_, r) =>
    grid.columns.flatMap((_, c) => {
      const value = grid.values[r]?.[c], x = x0 + c * wide, y = y0 + r * high, pale = grid.pale?.[c] ?? false;
      const fill = value === undefined ? "#f3f4f6" : shade(value), box = [x + 1, y + 1, wide - 2, high - 2];
      const [bx, by, bw, bh] = box.map((v) => v.toFixed(1));
      const ink = value === undefined ? "#b6bcc6" : value > 0.8 && !pale ? PAPER : INK;
      return [
        `<rect x="${bx}" y="${by}" width="${bw}" height="${bh}" rx="4" fill="${fill}"${
          pale ? ' fill-opacity="0.3"' : ""
        }/>`,
        label(x + wide / 2, y + high / 2 + size * 0.36, value === undefined ? "–" : value.toFixed(2), {
          size,
          fill: pale ? MUTED : ink,
          anchor: "middle",
        }),
      ];
    })
  );
}

/** A heat map: rows by columns, with the columns' names aslant above. */
export function heatMap(grid: ShareGrid, note = ""): string {
  const wide = Math.max(48, Math.min(72, 980 / grid.columns.length)), high = 34, top = 156;
  const left = 40 + 7.4 * Math.max(8, ...grid.rows.map((r) => r.length));
  const width = left + grid.columns.length * wide + 64, height = top + grid.rows.length * high + 24;
  const parts = cells(grid, left, top, wide, high, 12);
  grid.columns.forEach((name, c) => {
    const fill = grid.pale?.[c] ? "#a4abb6" : INK;
    parts.push(label(left + (c + 0.5) * wide - 4, top - 10, name, { fill, turn: -38 }));
  });
  grid.rows.forEach((name, r) =>
    parts.push(label(left - 12, top + (r + 0.5) * high + 4, name, { size: 13, anchor: "end" }))
  );
  return svg(width, height, { title: grid.title, note, x: "", y: "" }, parts);
}

/** Small heat maps of the same rows and columns, side by side. */
export function heatMaps(grids: readonly ShareGrid[], text: ChartText): string {
  const wide = 40, high = 26, [first] = grids;
  if (!first) return svg(760, 110, text, [label(24, 84, "nothing to show", { fill: MUTED })]);
  const panelWidth = first.columns.length * wide + 84, panelHeight = first.rows.length * high + 78, top = 72;
  const across = Math.max(1, Math.min(grids.length, Math.floor(1160 / panelWidth)));
  const parts = grids.flatMap((grid, i) => {
    const x = 24 + i % across * panelWidth, y = top + Math.floor(i / across) * panelHeight;
    return [
      label(x + 56, y + 12, grid.title, { size: 13, weight: 600 }),
      ...cells(grid, x + 56, y + 22, wide, high, 11),
      ...grid.rows.map((name, r) =>
        label(x + 50, y + 22 + (r + 0.5) * high + 4, name, { size: 11, fill: MUTED, anchor: "end" })
      ),
      ...grid.columns.map((name, c) =>
        label(x + 56 + (c + 0.5) * wide, y + 38 + first.rows.length * high, name, {
          ...{ size: 11, fill: MUTED, anchor: "middle" as const },
        })
      ),
    ];
  });
  const height = top + Math.ceil(grids.length / across) * panelHeight + 16, width = 48 + across * panelWidth;
  parts.push(label(width / 2, height - 12, `${text.x}; down: ${text.y}`, { anchor: "middle", fill: MUTED }));
  return svg(width, height, text, parts);
}
