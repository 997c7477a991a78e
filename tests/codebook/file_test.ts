import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { type CodecShape, pairStages, stageRows } from "../../src/core/codec.ts";
import { FileFormatError } from "../../src/core/errors.ts";
import { fromF16Array } from "../../src/core/f16.ts";
import { Rng } from "../../src/core/rng.ts";
import { type Codebook, expectFits, readCodebook, stagesAt, truncate, writeCodebook } from "../../src/codebook/file.ts";
import { VALUE_ARRAYS, type ValueArrays, valueArrayShapes } from "../../src/codebook/value_encoder.ts";
import { levels, packWords, type Precision, roundWords, tableOf, unpackWords } from "../../src/codebook/words.ts";
import { readSafetensors, writeSafetensors } from "../../src/files/safetensors.ts";
import { openSource } from "../../src/files/source.ts";

const KEYS: CodecShape = {
  headDim: 16,
  stages: [{ kind: "pair", tied: true }, { kind: "pair", tied: false }, { kind: "sub", pairs: 4 }],
};
const TIER = '{"base":1,"stages":2,"shares":[[0.25,0,1]],"thresholds":[[1,2,3]]}';
const model = { layers: 2, kvHeads: 3, headDim: 16, fingerprint: "abc" };

/** Words of every stage as training leaves them. */
function words(codec: CodecShape, precision: Precision, seed: number): Uint16Array[] {
  const rng = new Rng(seed);
  return codec.stages.map((stage, s) => {
    const rows = stageRows(stage),
      data = Float64Array.from({ length: 3 * rows * 16 }, () => rng.below(9) ? rng.normal() : 0);
    if (stage.kind === "pair" && stage.tied) {
      for (let i = 0; i < data.length; i += 2) {
        if (i % (rows * 16) < 64 * 16) [data[i + 64 * 16], data[i + 64 * 16 + 1]] = [-data[i + 1]!, data[i]!];
      }
    }
    return roundWords(data, 16, levels(precision, s));
  });
}

function sample(precision: Precision): Codebook {
  const values = pairStages(16, 2, true);
  const layers = [1, 2].map((seed) => ({
    keys: words(KEYS, precision, seed),
    values: words(values, precision, 9 + seed),
  }));
  return { model, keys: KEYS, values, precision, layers, record: { seed: "1", text: 'a "book"' } };
}

async function within(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("a codebook comes back as it was written, in either precision", () =>
  within(async (folder) => {
    const sizes: number[] = [];
    for (const precision of ["f16", "int8"] as const) {
      const book = sample(precision), path = `${folder}/${precision}.safetensors`;
      await writeCodebook(path, book);
      assertEquals(await readCodebook(path), book);
      sizes.push((await Deno.stat(path)).size);
    }
    assert(sizes[1]! < 0.65 * sizes[0]!, `${sizes}`);
  }));

Deno.test("stages from the seventh on are stored in half the bytes as int4, tied ones too", () =>
  within(async (folder) => {
    const codec: CodecShape = {
      headDim: 16,
      stages: [...pairStages(16, 7, false).stages, { kind: "pair", tied: true }],
    };
    const layers = [1, 2].map((seed) => ({ keys: words(codec, "int4", seed), values: words(codec, "int4", 9 + seed) }));
    const book: Codebook = { model, keys: codec, values: codec, precision: "int4", layers, record: {} };
    await writeCodebook(`${folder}/int4`, book);
    assertEquals(await readCodebook(`${folder}/int4`), book);
    using source = await openSource(`${folder}/int4`);
    const { tensors } = await readSafetensors(source),
      of = (s: number) => tensors.get(`layers.1.keys.${s}`)!.byteLength;
    assertEquals([of(5), of(6), of(7)], [3 * 128 * 16, 3 * 128 * 8, 3 * 64 * 8]);
  }));

/** A codebook with all that a file may say. */
function full(): Codebook {
  const codec = pairStages(16, 3, false), metric = () => Uint16Array.from({ length: 3 * 256 }, (_, i) => i % 256);
  const layers = [1, 2].map((seed) => ({
    ...{ keys: words(codec, "f16", seed), values: words(codec, "f16", 9 + seed) },
    metrics: { keys: metric(), values: metric() },
  }));
  const splits = { 1: { keys: 2, values: 1 }, 2: { keys: 3, values: 2 } };
  const tier = { base: 1, stages: 2, shares: [[0.25, 0, 1], [0.5, 0, 0]], thresholds: [[1, 2, 3], [4, 5, 6.5]] },
    tiers = { 2: { keys: tier, values: tier } };
  return { model, keys: codec, values: codec, precision: "f16", beam: 4, splits, tiers, layers, record: {} };
}

Deno.test("metrics, beam, splits and tiers come back; but for tiers, those of truncated codebooks stay", () =>
  within(async (folder) => {
    const book = full(), path = `${folder}/full`;
    await writeCodebook(path, book);
    assertEquals(await readCodebook(path), book);
    const cut = truncate(book, stagesAt(book, { k: 1, v: 1 }));
    assertEquals([cut.keys.stages.length, (cut.values as CodecShape).stages.length, cut.beam], [2, 1, 4]);
    assertEquals([cut.layers[1]!.metrics, cut.tiers], [book.layers[1]!.metrics, undefined]);
    const { layers } = book,
      onlyKeys = layers.map(({ metrics, ...rest }) => ({ ...rest, metrics: { keys: metrics!.keys } }));
    await writeCodebook(path, { ...book, layers: onlyKeys });
    assertEquals((await readCodebook(path)).layers, onlyKeys);
  }));

Deno.test("stagesAt() takes the codebook's split for equal bits, else the published stages", () => {
  const book = full();
  assertEquals(stagesAt(book, { k: 2, v: 2 }), { keys: 3, values: 2 });
  assertEquals(stagesAt(book, { k: 2, v: 1 }), { keys: 2, values: 1 });
  assertEquals(stagesAt(sample("f16"), { k: 1, v: 1 }), { keys: 1, values: 1 });
});

Deno.test("a codebook of the published value encoder comes back", () =>
  within(async (folder) => {
    const dims = { features: 96, bits: 1 } as const, shapes = valueArrayShapes(dims);
    const arrays = Object.fromEntries(VALUE_ARRAYS.map((name, i) => {
      const length = shapes[name].reduce((a, b) => a * b),
        data = i % 2 ? new Uint16Array(length).fill(i) : new Float32Array(length).fill(i);
      return [name, { shape: shapes[name], data }];
    })) as unknown as ValueArrays;
    const wide = { ...model, headDim: 32 }, keys = pairStages(32, 1, true);
    const stage = new Uint16Array(3 * 128 * 32),
      book: Codebook = {
        ...{ model: wide, keys, values: dims, precision: "f16", record: {} },
        layers: [{ keys: [stage], values: arrays }],
      };
    for (let i = 0; i < stage.length; i++) stage[i] = Math.floor(i / 2048) % 2 ? i % 2 ? 1 : 0x8002 : 1 + i % 2; // v = i u
    await writeCodebook(`${folder}/c`, book);
    assertEquals(await readCodebook(`${folder}/c`), book);
  }));

Deno.test("truncate() keeps the first stages", () => {
  const book = sample("f16"), cut = truncate(book, { keys: 2, values: 1 });
  assertEquals([cut.keys.stages.length, (cut.values as CodecShape).stages.length], [2, 1]);
  assertEquals(cut.layers[1]!.keys, book.layers[1]!.keys.slice(0, 2));
  assertEquals((cut.layers[1]!.values as Uint16Array[]).length, 1);
  assertThrows(() => truncate(book, { keys: 4 }), RangeError, "to 4 stages as it has 3");
});

Deno.test("expectFits() refuses another model's codebook and an unfinished one, by name and reason", () => {
  const book = sample("f16");
  expectFits("x", book, model);
  const wrong = [
    [{ layers: 3 }, "x with this model as it must have 3 layers: it has 2"],
    [{ kvHeads: 4 }, "4 key/value heads: it has 3"],
    [{ headDim: 64 }, "64 channels a head: it has 16"],
    [{ fingerprint: "def" }, "def as its model's fingerprint: it has abc"],
  ] as const;
  for (const [part, message] of wrong) {
    assertThrows(() => expectFits("x", book, { ...model, ...part }), FileFormatError, message);
  }
  const half = { ...book, layers: book.layers.slice(0, 1) };
  assertThrows(() => expectFits("x", half, model), FileFormatError, "all 2 layers must be trained: it has 1");
});

Deno.test("readCodebook() refuses what is no codebook, by name and reason", () =>
  within(async (folder) => {
    const path = `${folder}/bad.safetensors`;
    await writeCodebook(path, sample("f16"));
    const bytes = await Deno.readFile(path), length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))), about = header.__metadata__;
    const tensors = { t: { dtype: "F16", shape: [1], data: new Uint16Array(1) } } as const;
    const cases: [Record<string, string>, string][] = [
      [{}, "bad.safetensors as a codebook as its format must be commvq-codebook: it is not given"],
      [{ ...about, version: "1" }, "its version must be 2: it is 1"],
      [{ ...about, codebook: "{" }, "its description is damaged"],
      [
        { ...about, codebook: about.codebook.replace('"layers":2', '"layers":-2') },
        "counts must be whole numbers above 0",
      ],
      [{ ...about, codebook: about.codebook.replace('"pair"', '"pear"') }, '"kind":"pear"'],
      [{ ...about, codebook: about.codebook.replace('"finished":2', '"finished":5') }, "5 of 2 layers"],
      [{ ...about, codebook: about.codebook.replace("{", '{"metrics":["keys"],') }, "no stage may be tied"],
      [{ ...about, codebook: about.codebook.replace("{", '{"metrics":["queries"],') }, "a metric of queries"],
      [{ ...about, codebook: about.codebook.replace("{", '{"beam":-1,') }, "a beam of -1"],
      [
        { ...about, codebook: about.codebook.replace("{", '{"splits":{"1":{"keys":9,"values":1}},') },
        "splits beyond its stages",
      ],
      [
        { ...about, codebook: about.codebook.replace("{", `{"tiers":{"1":{"keys":${TIER},"values":${TIER}}},`) },
        "tiers beyond",
      ],
      [{ ...about, codebook: about.codebook.replace("{", '{"tiers":{"1":{}},') }, "tiers beyond"],
      [about, "'layers.0.keys.0' must be F16 [3,64,8,2]: it is missing"],
    ];
    for (const [metadata, message] of cases) {
      await writeSafetensors(path, tensors, metadata);
      await assertRejects(() => readCodebook(path), FileFormatError, message);
    }
  }));

for (const most of [127, 7] as const) {
  Deno.test(`roundWords() to ${most} steps is kept by packing, is symmetric, and rounding again changes nothing`, () => {
    const rng = new Rng(71),
      data = Float64Array.from({ length: 40 * 16 }, (_, i) => i < 16 ? 0 : rng.normal() * 10 ** (i % 7 - 3));
    const once = roundWords(data, 16, most), values = fromF16Array(once);
    assertEquals(roundWords(values, 16, most), once);
    const { numbers, peaks } = packWords(once, 16, most);
    assertEquals(fromF16Array(unpackWords(numbers, peaks, most)), values);
    assertEquals(fromF16Array(roundWords(data.map((x) => -x), 16, most)), values.map((x) => x === 0 ? 0 : -x));
    for (let row = 0; row < 640; row += 16) {
      const peak = Math.max(...data.subarray(row, row + 16).map(Math.abs));
      for (let i = row; i < row + 16; i++) assert(Math.abs(values[i]! - data[i]!) <= peak * (0.5 / most + 2 ** -10));
    }
  });
}

Deno.test("tableOf() lays stages of a head one after another", () => {
  const book = sample("f16"), table = new Uint16Array(tableOf(KEYS, 3, book.layers[0]!.keys).buffer);
  const at = (head: number, row: number): number => (head * 512 + row) * 16;
  assertEquals(
    table.subarray(at(2, 130), at(2, 131)),
    book.layers[0]!.keys[1]!.subarray((2 * 128 + 2) * 16, (2 * 128 + 3) * 16),
  );
  assertEquals(table.subarray(at(1, 256), at(1, 257)), book.layers[0]!.keys[2]!.subarray(256 * 16, 257 * 16));
});
