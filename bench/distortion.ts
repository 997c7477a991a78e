/**
 * What codebooks of the bundled model miss of text that they were not trained on, beside the published figures:
 *
 *   deno run -A bench/distortion.ts HELDOUT.jsonl.gz CODEBOOK...
 *
 * The text's first 8 documents are cut to their first 4,096 tokens, BOS included, as for `tests/fixtures/distortion.json`.
 */
import { dirname, fromFileUrl, join } from "@std/path";
import { readTexts } from "../src/cli/texts.ts";
import { isAdditive, readCodebook } from "../src/codebook/file.ts";
import { layerNmse, measureStages } from "../src/codebook/train.ts";
import { rowsOf } from "../src/codebook/train_codebook.ts";
import { type ValueArrays, ValueEncoder } from "../src/codebook/value_encoder.ts";
import { Calibration } from "../src/training/calibrate.ts";
import { inside, load } from "../src/llama/llama.ts";

const [text, ...paths] = Deno.args as [string, ...string[]];
const root = dirname(dirname(fromFileUrl(import.meta.url)));
const reference = JSON.parse(await Deno.readTextFile(join(root, "tests/fixtures/distortion.json")));
using llama = await load(join(root, "models/fable-28m/fable-28m.Q8_0.gguf"), { maxContext: 4096 });
const { gpu, decoder, attention, config } = inside(llama);
const windows = (await readTexts([text])).slice(0, 8).map((t) => llama.tokenizer.encode(t).slice(0, 4096));
using calibration = new Calibration(gpu, decoder, attention, windows);

/** The published figure of a layer's keys: the mean of its heads'. */
function publishedKeys(layer: number, stages: number): number {
  const rows = reference.keys.nmse[layer].filter((row: { stages: number }) => row.stages === stages);
  return rows.reduce((sum: number, row: { heldout: number }) => sum + row.heldout, 0) / rows.length;
}

for (const path of paths) {
  const book = await readCodebook(path), { keys, values } = book;
  console.log(`${path} on ${text.split("/").at(-1)}, ${gpu.description}`);
  for (let layer = 0; layer < config.layers; layer++) {
    const vectors = await calibration.vectors(layer), cells: string[] = [];
    const keyNmse = layerNmse(await measureStages(gpu, config, vectors.keys, keys, book.layers[layer]!.keys), "keys");
    for (const s of [5, 10].filter((s) => s <= keyNmse.length)) {
      const own = keyNmse[s - 1]!, published = publishedKeys(layer, s);
      cells.push(`keys ${s}: ${own.toFixed(4)} (${(own / published).toFixed(3)} of published)`);
    }
    const of = (bits: 1 | 2): number => reference.values.heldoutByLayer[bits][layer];
    if (!isAdditive(values)) {
      using encoder = await ValueEncoder.fromArrays(gpu, [book.layers[layer]!.values as ValueArrays]);
      using rows = await rowsOf(gpu, config, vectors.values);
      const own = await encoder.distortion(0, rows), share = (own / of(values.bits)).toFixed(3);
      cells.push(`values at ${values.bits} bits: ${own.toFixed(4)} (${share} of the encoder's)`);
    } else {
      const own = layerNmse(
        await measureStages(gpu, config, vectors.values, values, book.layers[layer]!.values as Uint16Array[]),
        "values",
      );
      for (const s of [5, 10].filter((s) => s <= own.length)) {
        cells.push(
          `values ${s}: ${own[s - 1]!.toFixed(4)} (${(own[s - 1]! / of(s === 5 ? 1 : 2)).toFixed(3)} of the encoder's)`,
        );
      }
    }
    console.log(`  layer ${layer}  ${cells.join("  ")}`);
  }
}
