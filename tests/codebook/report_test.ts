import { assert, assertEquals } from "@std/assert";
import { distortionChart, distortionTable } from "../../src/codebook/report.ts";

const distortion = { keys: [[0.2, 0.1, 0.05], [0.4, 0.3, 0.2]], values: [[0.5, 0.25], [0.7, 0.35]] };

Deno.test("distortionTable() has a line a layer, and their mean", () => {
  const lines = distortionTable(distortion, [1, 2]).split("\n").map((line) => line.trim().split(/ {2,}/));
  assertEquals(lines, [
    ["layer", "keys 1", "keys 2", "values 1", "values 2"],
    ["0", "0.200", "0.100", "0.500", "0.250"],
    ["1", "0.400", "0.300", "0.700", "0.350"],
    ["mean", "0.300", "0.200", "0.600", "0.300"],
  ]);
  assertEquals(distortionTable(distortion).split("\n")[0]!.trim().split(/ {2,}/).length, 6);
});

Deno.test("distortionChart() draws a line a layer within its frame, and escapes its title", () => {
  const svg = distortionChart(distortion, "a < b");
  assertEquals(svg.match(/<polyline/g)!.length, 4);
  assertEquals(svg.match(/<circle/g)!.length, 10);
  assert(svg.includes("a &#60; b") && !svg.includes("NaN"));
  for (const [, x, y] of svg.matchAll(/cx="([\d.-]+)" cy="([\d.-]+)"/g)) {
    assert(Number(x) >= 0 && Number(x) <= 460 && Number(y) >= 0 && Number(y) <= 320);
  }
  assert(!distortionChart({ keys: [[0.1]], values: [] }, "one").includes("NaN"));
});
