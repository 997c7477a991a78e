/**
 * Charts as SVG text: points against bits, and a heat map.
 *
 * @module
 */

const INK = "#1b1f24", MUTED = "#6b7280", GRID = "#e5e7eb";
const COLOURS = ["#0f766e", "#b45309", "#1d4ed8", "#be123c", "#6d28d9", "#4d7c0f", "#0369a1", "#a21caf"];
const FONT = `font-family="ui-sans-serif, system-ui, 'Helvetica Neue', Arial, sans-serif"`;

/** Text made safe for SVG and HTML. */
export function escapeText(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

/** One named point of {@linkcode scatter}. Points of one series share a colour and are joined by a line. */
export interface Point {
  readonly x: number;
  readonly y: number;
  readonly label: string;
  readonly series: string;
}

/** What a chart says on its edges. */
export interface ChartText {
  readonly title: string;
  readonly x: string;
  readonly y: string;
}

const label = (x: number, y: number, text: string, size: number, fill: string, rest = ""): string =>
  `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" font-size="${size}" fill="${fill}" ${FONT} ${rest}>${
    escapeText(text)
  }</text>`;

/** Round numbers that cover `[low, high]`, about `count` of them. */
function ticks(low: number, high: number, count = 5): number[] {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((s) => s * power >= rough)! * power, out = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step / 1e6; v += step) out.push(v);
  return out;
}

/** Powers of ten that cover `[low, high]`. */
function decades(low: number, high: number): number[] {
  const out = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) out.push(10 ** e);
  return out;
}

const number = (v: number): string =>
  v !== 0 && Math.abs(v) < 1e-3 ? v.toExponential(0) : String(Number(v.toPrecision(3)));

/** A chart of labelled points; `logY` draws decades. */
export function scatter(points: readonly Point[], text: ChartText, { logY = false } = {}): string {
  const width = 720, height = 440, left = 74, right = 24, top = 52, bottom = 58;
  const shown = points.filter(({ x, y }) => Number.isFinite(x) && Number.isFinite(y) && (!logY || y > 0));
  const xs = shown.map((p) => p.x), ys = shown.map((p) => p.y);
  const xHigh = Math.max(1, ...xs) * 1.06, xTicks = ticks(0, xHigh, 8);
  const yTicks = logY
    ? decades(Math.min(...ys, 1), Math.max(...ys, 1e-9))
    : ticks(Math.min(...ys), Math.max(...ys) * 1.0001 + 1e-9);
  const scale = (v: number): number => logY ? Math.log10(v) : v;
  const yLow = Math.min(scale(yTicks[0]!), ...ys.map(scale)), yHigh = Math.max(scale(yTicks.at(-1)!), ...ys.map(scale));
  const px = (x: number): number => left + x / xHigh * (width - left - right);
  const py = (y: number): number => height - bottom - (scale(y) - yLow) / (yHigh - yLow || 1) * (height - top - bottom);
  const series = [...new Set(shown.map((p) => p.series))], parts: string[] = [];
  for (const x of xTicks) {
    parts.push(`<line x1="${px(x)}" x2="${px(x)}" y1="${top}" y2="${height - bottom}" stroke="${GRID}"/>`);
    parts.push(label(px(x), height - bottom + 18, number(x), 12, MUTED, 'text-anchor="middle"'));
  }
  for (const y of yTicks) {
    parts.push(`<line x1="${left}" x2="${width - right}" y1="${py(y)}" y2="${py(y)}" stroke="${GRID}"/>`);
    parts.push(label(left - 8, py(y) + 4, number(y), 12, MUTED, 'text-anchor="end"'));
  }
  series.forEach((name, s) => {
    const colour = COLOURS[s % COLOURS.length]!,
      own = shown.filter((p) => p.series === name).toSorted((a, b) => a.x - b.x);
    const path = own.map((p, i) => `${i ? "L" : "M"}${px(p.x).toFixed(1)} ${py(p.y).toFixed(1)}`).join("");
    if (own.length > 1) {
      parts.push(`<path d="${path}" fill="none" stroke="${colour}" stroke-width="1.5" stroke-opacity="0.5"/>`);
    }
    for (const p of own) {
      parts.push(`<circle cx="${px(p.x).toFixed(1)}" cy="${py(p.y).toFixed(1)}" r="4.5" fill="${colour}"/>`);
    }
  });
  parts.push(
    ...placeLabels(
      shown.map((p) => ({
        x: px(p.x),
        y: py(p.y),
        text: p.label,
        colour: COLOURS[series.indexOf(p.series) % COLOURS.length]!,
      })),
      width - right,
    ),
  );
  return svg(width, height, text, parts, top, left, bottom);
}

/** Labels beside their points, moved up or down until none covers another. */
function placeLabels(items: { x: number; y: number; text: string; colour: string }[], edge: number): string[] {
  const placed: { x0: number; x1: number; y: number }[] = [];
  return items.toSorted((a, b) => a.y - b.y).map(({ x, y, text, colour }) => {
    const wide = text.length * 6.4, flip = x + 9 + wide > edge, x0 = flip ? x - 9 - wide : x + 9;
    const free = (at: number): boolean =>
      placed.every((p) => p.x1 < x0 || p.x0 > x0 + wide || Math.abs(p.y - at) >= 13);
    let at = y + 4;
    for (let step = 0; !free(at) && step < 24; step++) at = y + 4 + (step % 2 ? -1 : 1) * 13 * (1 + (step >> 1));
    placed.push({ x0, x1: x0 + wide, y: at });
    return label(flip ? x - 9 : x + 9, at, text, 12, colour, flip ? 'text-anchor="end"' : "");
  });
}

function svg(
  width: number,
  height: number,
  text: ChartText,
  parts: readonly string[],
  top: number,
  left: number,
  bottom: number,
): string {
  const middle = top + (height - top - bottom) / 2;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${
      escapeText(text.title)
    }">`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    label(left, 28, text.title, 16, INK, 'font-weight="600"'),
    ...parts,
    label(left + (width - left) / 2, height - 16, text.x, 13, INK, 'text-anchor="middle"'),
    label(18, middle, text.y, 13, INK, `text-anchor="middle" transform="rotate(-90 18 ${middle})"`),
    "</svg>",
  ].join("\n");
}

/** A heat map of shares (0 to 1): `values[row][column]`, `undefined` where nothing was measured. */
export function heatMap(
  rows: readonly string[],
  columns: readonly string[],
  values: readonly (readonly (number | undefined)[])[],
  text: ChartText,
): string {
  const cell = { width: Math.max(54, Math.min(96, 900 / columns.length)), height: 34 };
  const left = 40 + 7.4 * Math.max(8, ...rows.map((r) => r.length)), top = 92, bottom = 54;
  const width = left + columns.length * cell.width + 24,
    height = top + rows.length * cell.height + bottom,
    parts: string[] = [];
  columns.forEach((name, c) => {
    const x = left + (c + 0.5) * cell.width, y = top - 10;
    parts.push(label(x, y, name, 11, MUTED, `text-anchor="start" transform="rotate(-28 ${x} ${y})"`));
  });
  rows.forEach((name, r) => {
    const y = top + r * cell.height;
    parts.push(label(left - 10, y + cell.height / 2 + 4, name, 13, INK, 'text-anchor="end"'));
    columns.forEach((_, c) => {
      const value = values[r]?.[c], x = left + c * cell.width, share = value ?? 0;
      const fill = value === undefined
        ? "#f3f4f6"
        : `hsl(${(172 * share).toFixed(0)} 55% ${(92 - 50 * share).toFixed(0)}%)`;
      parts.push(
        `<rect x="${x + 1}" y="${y + 1}" width="${cell.width - 2}" height="${cell.height - 2}" rx="3" fill="${fill}"/>`,
      );
      const ink = value === undefined ? MUTED : share > 0.6 ? "#ffffff" : INK;
      parts.push(
        label(
          x + cell.width / 2,
          y + cell.height / 2 + 4,
          value === undefined ? "–" : share.toFixed(2),
          12,
          ink,
          'text-anchor="middle"',
        ),
      );
    });
  });
  return svg(width, height, text, parts, top, left, bottom);
}
