import { assert, assertEquals, assertRejects } from "@std/assert";
import { pairStages } from "../../src/core/codec.ts";
import { Rng } from "../../src/core/rng.ts";
import { type Codebook, isAdditive, readCodebook } from "../../src/codebook/file.ts";
import { recordedDistortion, trainCodebook, type TrainCodebookOptions } from "../../src/codebook/train_codebook.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { correlated } from "./_vectors.ts";

const model = { layers: 4, kvHeads: 2, headDim: 16, fingerprint: "small" };
const vectors = (layer: number) =>
  Promise.resolve(
    {
      keys: { form: "rows", parts: [correlated(300, 32, 80 + layer)] },
      values: { form: "rows", parts: [correlated(300, 32, 90 + layer)] },
    } as const,
  );
const options: TrainCodebookOptions = {
  keys: pairStages(16, 2, true),
  values: pairStages(16, 1, false),
  iterations: 3,
  seed: 5,
  record: { text: "none" },
};

Deno.test("trainCodebook()", async (t) => {
  using gpu = await Gpu.create();
  const folder = await Deno.makeTempDir(), whole = `${folder}/whole.safetensors`;
  let book: Codebook;

  await t.step("trains every layer and says how", async () => {
    const seen: string[] = [];
    book = await trainCodebook(gpu, model, vectors, {
      ...options,
      path: whole,
      onProgress: ({ layer, side, stage, head, secondsLeft }) => {
        assert(secondsLeft >= 0);
        seen.push(`${layer} ${side} ${stage} ${head}`);
      },
    });
    assertEquals(seen.length, 4 * 2 * 3);
    assertEquals(await readCodebook(whole), book);
    await assertRejects(() => Deno.stat(`${whole}.partial`));
    const { keys, values } = recordedDistortion(book);
    assertEquals([keys.length, keys[0]!.length, values.length, values[0]!.length], [4, 2, 4, 1]);
    assertEquals([book.record.seed, book.record.tokens, book.record.text], ["5", "300", "none"]);
    assert(keys.every(([a, b]) => b! < a! && a! < 1));
    assert(`${book.layers[0]!.keys[0]}` !== `${book.layers[1]!.keys[0]}`);
  });

  await t.step("stopped at any moment and resumed, ends with the same file", async () => {
    const rng = new Rng(91), bytes = await Deno.readFile(whole);
    for (let trial = 0; trial < 3; trial++) {
      const path = `${folder}/resumed${trial}.safetensors`, asked: number[] = [];
      let left = 1 + rng.below(23);
      const stop = new AbortController();
      const onProgress = (): void => void (--left === 0 && stop.abort(new Error("killed")));
      const first = trainCodebook(gpu, model, vectors, { ...options, path, signal: stop.signal, onProgress });
      await first.catch((error) => assertEquals(error.message, "killed"));
      const finished = await readCodebook(`${path}.partial`).then(({ layers }) => layers.length, () => 0);
      const again = (layer: number) => (asked.push(layer), vectors(layer));
      await trainCodebook(gpu, model, again, { ...options, path, resume: true });
      assertEquals(await Deno.readFile(path), bytes);
      assertEquals(asked, [0, 1, 2, 3].slice(finished));
    }
  });

  await t.step("does not resume what was begun with other settings", async () => {
    const path = `${folder}/other.safetensors`, stop = new AbortController();
    const stopping = {
      signal: stop.signal,
      onProgress: ({ layer }: { layer: number }) => void (layer && stop.abort()),
    };
    await trainCodebook(gpu, model, vectors, { ...options, path, ...stopping }).catch(() => {});
    const cases = [
      [{ seed: 6 }, "its seed must be 6: it is 5"],
      [{ keys: pairStages(16, 3, true) }, "its keys must be tied, tied, tied: it is tied, tied"],
      [{ record: { text: "other" } }, "its text must be other: it is none"],
      [{ precision: "int8" }, "its precision must be int8: it is f16"],
    ] as const;
    for (const [change, message] of cases) {
      const run = () => trainCodebook(gpu, model, vectors, { ...options, path, resume: true, ...change });
      await assertRejects(run, RangeError, message);
    }
    await assertRejects(
      () => trainCodebook(gpu, { ...model, fingerprint: "large" }, vectors, { ...options, path, resume: true }),
      RangeError,
      "its model must be",
    );
  });

  await t.step("trains the published value encoder where its bits are asked for", async () => {
    const values = { features: 32, bits: 1 } as const, two = { ...model, layers: 1 };
    const trained = await trainCodebook(gpu, two, vectors, {
      ...options,
      values,
      path: `${folder}/encoder`,
      valueSteps: 3,
    });
    assert(!isAdditive(trained.values));
    assertEquals(await readCodebook(`${folder}/encoder`), trained);
    await Deno.copyFile(`${folder}/encoder`, `${folder}/encoder.partial`);
    const resume = { ...options, values, path: `${folder}/encoder`, valueSteps: 3, resume: true };
    await assertRejects(
      () => trainCodebook(gpu, two, vectors, { ...resume, valueSeeds: 2 }),
      RangeError,
      "its valueSeeds must be 2: it is 3",
    );
    const { values: host } = await vectors(0), width = 80, offset = 40; // as calibration has them: among queries and keys
    const wide = (rows: Float32Array) => {
      const data = new Float32Array(rows.length / 32 * width).fill(7);
      for (let t = 0; t < rows.length / 32; t++) data.set(rows.subarray(32 * t, 32 * t + 32), t * width + offset);
      return gpu.upload("queries, keys and values", "f32", [rows.length / 32, width], data);
    };
    const parts = host.parts.flatMap((part) => {
      const rows = part as Float32Array;
      return [wide(rows.subarray(0, 96 * 32)), wide(rows.subarray(96 * 32))];
    });
    const among = async (layer: number) => ({
      ...await vectors(layer),
      values: { form: "rows" as const, parts, offset },
    });
    const again = await trainCodebook(gpu, two, among, { ...options, values, valueSteps: 3 });
    assertEquals(again.layers[0]!.values, trained.layers[0]!.values);
    parts.forEach((part) => part[Symbol.dispose]());
  });
  await Deno.remove(folder, { recursive: true });
});
