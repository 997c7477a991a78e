/**
 * How far codebooks are off, for people: a table, and a chart by layer and stage.
 *
 * @module
 */
import type { RecordedDistortion } from "./train_codebook.ts";

/** NMSE of every layer after chosen stages, by default all, as lines of text. */
export function distortionTable({ keys, values }: RecordedDistortion, stages: readonly number[] = []): string {
  const columns = (side: string, rows: RecordedDistortion["keys"]) => {
    const count = rows[0]?.length ?? 0, wanted = stages.filter((s) => s <= count);
    return (wanted.length ? wanted : Array.from({ length: count }, (_, s) => s + 1)).map((s) => ({
      title: `${side} ${s}`,
      cells: [...rows.map((row) => row[s - 1]!), rows.reduce((sum, row) => sum + row[s - 1]!, 0) / rows.length],
    }));
  };
  const all = [...columns("keys", keys), ...columns("values", values)];
  const names = ["layer", ...keys.map((_, l) => `${l}`), "mean"];
  const lines = names.map((name, i) =>
    [
      name.padEnd(6),
      ...all.map(({ title, cells }) => (i === 0 ? title : cells[i - 1]!.toPrecision(3)).padStart(11)),
    ].join("")
  );
  return lines.join("\n");
}

const WIDTH = 460, HEIGHT = 320, LEFT = 64, TOP = 48, BOTTOM = 48, RIGHT = 24;
const INK = "#1f2328", MUTED = "#656d76", GRID = "#d8dee4";

/** An SVG of NMSE by stage, a line a layer, keys beside values; the error is on a logarithmic scale. */
export function distortionChart(distortion: RecordedDistortion, title: string): string {
  const sides = (["keys", "values"] as const).filter((side) => distortion[side].length > 0);
  const width = WIDTH * sides.length, all = sides.flatMap((side) => distortion[side].flat()).filter((x) => x > 0);
  const low = Math.floor(Math.log10(Math.min(...all, 1))), high = Math.ceil(Math.log10(Math.max(...all, 1e-9)));
  const panels = sides.map((side, i) =>
    `<g transform="translate(${i * WIDTH} 0)">${panel(distortion[side], side, low, Math.max(high, low + 1))}</g>`
  );
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${HEIGHT}" width="${width}" height="${HEIGHT}" role="img" font-family="system-ui, sans-serif">`,
    `<title>${escaped(title)}</title>`,
    `<rect width="${width}" height="${HEIGHT}" fill="#ffffff"/>`,
    text(LEFT, 24, title, 15, INK, 'font-weight="600"'),
    ...panels,
    "</svg>\n",
  ].join("\n");
}

function panel(layers: readonly (readonly number[])[], name: string, low: number, high: number): string {
  const stages = Math.max(...layers.map((row) => row.length)), right = WIDTH - RIGHT, bottom = HEIGHT - BOTTOM;
  const x = (stage: number): number => stages > 1 ? LEFT + (stage / (stages - 1)) * (right - LEFT) : (LEFT + right) / 2;
  const y = (nmse: number): number => {
    const share = (Math.log10(Math.max(nmse, 10 ** low)) - low) / (high - low);
    return bottom - share * (bottom - TOP);
  };
  const parts: string[] = [];
  for (let decade = low; decade <= high; decade++) {
    const at = y(10 ** decade).toFixed(1);
    parts.push(`<line x1="${LEFT}" x2="${right}" y1="${at}" y2="${at}" stroke="${GRID}"/>`);
    parts.push(text(LEFT - 8, Number(at) + 4, `${Number(`1e${decade}`)}`, 12, MUTED, 'text-anchor="end"'));
  }
  for (let stage = 0; stage < stages; stage++) {
    parts.push(text(x(stage), bottom + 18, `${stage + 1}`, 12, MUTED, 'text-anchor="middle"'));
  }
  layers.forEach((row, l) => {
    const colour = `hsl(${Math.round(220 + 140 * l / Math.max(1, layers.length - 1))} 65% 45%)`;
    const points = row.map((nmse, s) => `${x(s).toFixed(1)},${y(nmse).toFixed(1)}`);
    parts.push(`<polyline points="${points.join(" ")}" fill="none" stroke="${colour}" stroke-width="1.5"/>`);
    for (const point of points) {
      const [cx, cy] = point.split(",");
      parts.push(`<circle cx="${cx}" cy="${cy}" r="2.5" fill="${colour}"><title>layer ${l}</title></circle>`);
    }
    parts.push(text(right + 4, y(row.at(-1)!) + 4, `${l}`, 10, colour));
  });
  parts.push(text((LEFT + right) / 2, HEIGHT - 10, `stages of ${name}`, 12, MUTED, 'text-anchor="middle"'));
  parts.push(text(LEFT, TOP - 8, "NMSE; a line a layer", 12, MUTED));
  return parts.join("\n");
}

function text(x: number, y: number, content: string, size: number, fill: string, more = ""): string {
  const at = `x="${x.toFixed(1)}" y="${y.toFixed(1)}" font-size="${size}" fill="${fill}"`;
  return `<text ${at} ${more}>${escaped(content)}</text>`;
}

function escaped(content: string): string {
  return content.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
}
