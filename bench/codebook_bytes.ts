/**
 * What codebooks weigh beside the codes, in bits an element of one sequence (`b_all`), by arithmetic alone:
 *
 *   deno run bench/codebook_bytes.ts
 *
 * Published: tied stages of keys, and the value network, in two bytes a number. Default: the tables of `defaultTiers` as a
 * cache holds them at so many bits, with the metrics that encoding needs.
 */
import { bitsAll, bitsEffective } from "../src/core/bits.ts";
import { pairStages, publishedStages, type Stage, tableRows } from "../src/core/codec.ts";
import { valueWidths } from "../src/core/shapes.ts";
import { defaultTiers } from "../src/training/tiers.ts";

const SHAPES = {
  "fable-28m": { layers: 8, kvHeads: 4, headDim: 64 },
  "an 8B's": { layers: 32, kvHeads: 8, headDim: 128 },
};
const NEAR = 64 + 4, LENGTHS = [4096, 8192, 32_768, 131_072], HALF = 2;

for (const [name, { layers, kvHeads, headDim }] of Object.entries(SHAPES)) {
  const heads = layers * kvHeads, elements = 2 * heads * headDim;
  for (const bits of [1, 2] as const) {
    const { codebook, linear1, linear2 } = valueWidths({ features: kvHeads * headDim, bits });
    const keys = tableRows(pairStages(headDim, publishedStages(headDim, bits), true)) * headDim * heads / 2; // v = i u
    const published = HALF * (keys + layers * (codebook + linear1 + linear2));
    const { stages, tiers } = defaultTiers(headDim);
    const table = (side: "keys" | "values"): number => {
      const used: readonly Stage[] = stages[side].slice(0, tiers[bits][side].stages);
      return HALF * heads * headDim * (tableRows({ headDim, stages: used }) + headDim);
    };
    const own = table("keys") + table("values");
    for (const [what, bytes] of Object.entries({ published, default: own })) {
      const all = LENGTHS.map((n) => bitsAll(bitsEffective(bits, NEAR, n), bytes, n * elements).toFixed(2));
      if (what === "published") { // what is left of its b_all, 40 % lower at the second length, beside as many bits of codes
        const of = LENGTHS[1]!, codes = bitsEffective(bits, NEAR, of);
        const room = (0.6 * bitsAll(codes, bytes, of * elements) - codes) * of * elements / 8;
        console.log(`${name} shape, ${bits} bit: 40 % below it at ${of} leaves ${(room / 1e6).toFixed(1)} MB`);
      }
      const label = `${name} shape, ${bits} bit, ${what}`;
      console.log(`${label.padEnd(36)} ${(bytes / 1e6).toFixed(1).padStart(7)} MB; b_all ${all.join(", ")}`);
    }
  }
}
console.log(`at ${LENGTHS.join(", ")} tokens`);
