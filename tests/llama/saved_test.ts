/** Sessions that are saved, restored and put behind others. */
import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { sizesOf } from "../../src/attention/code_attention.ts";
import { CodeCache } from "../../src/attention/code_cache.ts";
import { ExactCache } from "../../src/attention/exact_cache.ts";
import type { KvCache } from "../../src/attention/kv_cache.ts";
import { moreBits } from "../../src/core/codec.ts";
import { FileFormatError } from "../../src/core/errors.ts";
import { BLOCK, blocks, moreStarts } from "../../src/core/pack.ts";
import { Rng } from "../../src/core/rng.ts";
import { readSafetensors, type TensorSource, writeSafetensors } from "../../src/files/safetensors.ts";
import { openSource } from "../../src/files/source.ts";
import { inspectCache } from "../../src/llama/inspect.ts";
import { inside, type KvOptions, type Llama } from "../../src/llama/llama.ts";
import { openCache } from "../../src/llama/saved.ts";
import { Session } from "../../src/llama/session.ts";
import { furtherCodes } from "../../src/ref/code_tier.ts";
import { CODES, CONTEXT, go, IDS, type Open, SHAPE, TIERS, within } from "./_small.ts";

for (const [name, kv] of [["an exact cache", {}], ["a cache of codes", CODES], ["a cache in tiers", TIERS]] as const) {
  Deno.test(`${name}, restored, goes on as it would have`, () =>
    within(async (folder, open) => {
      const path = `${folder}/saved.safetensors`;
      using llama = await open(kv);
      using elsewhere = await open(kv, { maxContext: 400 });
      using session = llama.session();
      for (const step of ["fresh", "rewound into the window", "rewound into codes", "short"]) {
        if (step === "fresh") await go(session, IDS);
        if (step === "rewound into the window") session.rewind(185);
        if (step === "rewound into codes") session.rewind(61);
        if (step === "short") session.rewind(3);
        await session.save(path);
        using restored = elsewhere.session();
        await go(restored, [5, 6, 7]); // something else is there
        await restored.restore(path);
        assertEquals(restored.tokens, session.tokens);
        using fork = session.fork();
        const expected = await go(fork, [9, 8, 7], 70);
        assertEquals(await go(restored, [9, 8, 7], 70), expected, step);
        using without = elsewhere.session();
        assertNotEquals(await go(without, [9, 8, 7], 70), expected);
      }
      assertEquals([...Deno.readDirSync(folder)].filter(({ name }) => name.endsWith(".unfinished")), []);
      await session.rewind(0);
      await session.save(path); // nothing at all
      using empty = elsewhere.session();
      await empty.restore(path);
      assertEquals(await go(empty, IDS), await go(session, IDS));
    }));
}

Deno.test("a cache in tiers is restored where the context is shorter, and further codes have less room", () =>
  within(async (folder, open) => {
    const path = `${folder}/saved.safetensors`;
    using llama = await open(TIERS);
    using shorter = await open(TIERS, { maxContext: 360 });
    using session = llama.session(), restored = shorter.session();
    await go(session, [...IDS, ...IDS], 20);
    await session.save(path);
    await restored.restore(path);
    assertEquals(await go(restored, [9, 8, 7], 20), await go(session, [9, 8, 7], 20));
  }));

Deno.test("restore() refuses what is of something else, and leaves the session as it was", () =>
  within(async (folder, open) => {
    const path = `${folder}/saved.safetensors`;
    using llama = await open(CODES);
    using session = llama.session();
    await go(session, IDS);
    await session.save(path);
    const cases: [KvOptions, Parameters<Open>[1], string][] = [
      [CODES, { seed: 8 }, "its model's fingerprint must be"],
      [CODES, { book: 2 }, "its codebook's digest must be"],
      [{ ...CODES, bits: 1 }, {}, "its bits of keys and values must be 1,1: it is 2,1. Load with these kv bits"],
      [{}, {}, "its bits of keys and values must be 16,16: it is 2,1"],
      [{ ...CODES, window: 64 }, {}, "its window must be 64: it is 32. Load with this window"],
      [{ ...CODES, sinks: 0 }, {}, "its number of sinks must be 0: it is 4"],
    ];
    for (const [kv, options, sentence] of cases) {
      using other = await open(kv, options);
      using into = other.session();
      const [before] = [await go(into, [5, 6, 7], 4), await go(into, [8])];
      assert(before.length === 4);
      using twin = into.fork();
      await assertRejects(() => into.restore(path), FileFormatError, sentence);
      await assertRejects(() => into.append(path), FileFormatError, sentence);
      assertEquals(await go(into, [9]), await go(twin, [9]));
    }
    using small = await open(CODES, { maxContext: 128 });
    using into = small.session();
    await assertRejects(() => into.restore(path), RangeError, "load with a larger maxContext");
    await assertRejects(() => into.restore(`${folder}/7/model.safetensors`), FileFormatError, "its format must be");
    await assertRejects(() => into.restore(`${folder}/nothing`), Deno.errors.NotFound, "no such file");
    const saving = session.save(path);
    await assertRejects(() => session.save(path), TypeError, "Cannot save as the session is saving");
    await saving;
    await assertRejects(() => session.save(`${folder}/no/where`), Deno.errors.NotFound);
    await session.restore(path);
  }));

Deno.test("restore() refuses damaged and hostile files", () =>
  within(async (folder, open) => {
    const path = `${folder}/saved.safetensors`, bad = `${folder}/bad.safetensors`;
    using llama = await open(CODES);
    using session = llama.session();
    await go(session, IDS);
    await session.save(path);
    const bytes = await Deno.readFile(path), expected = session.fork();
    for (const length of [0, 5, 9, 300, bytes.length >> 1, bytes.length - 1]) {
      await Deno.writeFile(bad, bytes.subarray(0, length));
      await assertRejects(() => session.restore(bad), FileFormatError, "Cannot read bad.safetensors as");
    }
    using source = await openSource(path);
    const { metadata, tensors } = await readSafetensors(source);
    const rewrite = async (changes: Record<string, string>, drop?: string, shape?: number[]) => {
      const arrays: [string, TensorSource][] = [...tensors.values()].flatMap((entry) => {
        const read = async () => (await source.read(entry.offset, entry.byteLength)).buffer;
        if (entry.name !== drop) return [[entry.name, { ...entry, read }]];
        return shape ? [[entry.name, { ...entry, shape, read }]] : [];
      });
      await writeSafetensors(bad, Object.fromEntries(arrays), { ...metadata, ...changes });
    };
    await rewrite({});
    await session.restore(bad); // the rewriting itself does no harm
    const [length] = tensors.get("tokens")!.shape, { runs, start } = JSON.parse(metadata.layout!);
    assertEquals([length, runs.length], [190, 1]);
    for (
      const layout of [
        ...["", "null", "[]", "{}", '{"runs":[],"start":0}', `{"runs":[${runs}],"start":-32}`, '{"runs":7,"start":0}'],
        ...[`{"runs":[1e9],"start":0}`, `{"runs":[-32,${runs[0] + 32}],"start":0}`, `{"runs":[${runs}],"start":1}`],
        ...[`{"runs":[${runs}],"start":64}`, `{"runs":[${runs[0] - 32}],"start":${start}}`],
        ...[`{"runs":[${runs[0] - 20},${Array(20).fill(1)}],"start":0}`, `{"runs":["${runs}"],"start":0}`],
      ]
    ) {
      await rewrite({ layout });
      await assertRejects(() => session.restore(bad), FileFormatError, "its layout is damaged", layout);
    }
    await rewrite({ version: "1" });
    await assertRejects(() => session.restore(bad), FileFormatError, "its version must be 2: it is 1. Use the module");
    await rewrite({}, "tokens");
    await assertRejects(() => session.restore(bad), FileFormatError, "'tokens' must be U32 [0]: it is missing");
    await rewrite({}, "layers.1.values.codes");
    await assertRejects(() => session.restore(bad), FileFormatError, "'layers.1.values.codes' must be U32");
    const scales = tensors.get("layers.0.keys.scales")!.shape[0]!;
    await rewrite({}, "layers.0.keys.scales", [scales / 2, 2]);
    await assertRejects(
      () => session.restore(bad),
      FileFormatError,
      `must be F16 [${scales}]: it is F16 [${scales / 2}`,
    );
    assertEquals(await go(session, [9]), await go(expected, [9]));
    expected[Symbol.dispose]();
  }));

Deno.test("inspectCache() describes a saved cache", () =>
  within(async (folder, open) => {
    const path = `${folder}/saved.safetensors`;
    using llama = await open(CODES);
    using session = llama.session();
    await go(session, IDS);
    await session.save(path);
    const { layers, model, codebook, ...rest } = await inspectCache(path);
    assertEquals([layers, model, codebook.length], [2, llama.fingerprint, 64]);
    const expected = { kind: "cache", name: "saved.safetensors", bits: "2,1", window: "32", sinks: "4", tokens: 190 };
    const byteLength = (await Deno.stat(path)).size;
    assertEquals(rest, { ...expected, encoded: 128, byteLength } as typeof rest);
  }));

/** Rows `[T][(Q + 2K)·D]` of random queries, keys and values. */
function rows(tokens: number, seed: number): Float32Array {
  const rng = new Rng(seed);
  return Float32Array.from({ length: tokens * 8 * SHAPE.headDim }, () => rng.normal());
}

/** Sends rows through every layer of a cache; the last output of each. */
async function feed(llama: Llama, cache: KvCache, data: Float32Array): Promise<Float32Array[]> {
  const { gpu } = inside(llama), width = 8 * SHAPE.headDim, tokens = data.length / width, out: Float32Array[] = [];
  using qkv = gpu.upload("qkv", "f32", [tokens, width], data);
  using mixed = gpu.alloc("mixed", "f32", [tokens, 4 * SHAPE.headDim]);
  await cache.begin(tokens);
  for (let layer = 0; layer < SHAPE.layers; layer++) {
    const commands = gpu.commands("layer");
    cache.attend(commands, layer, { qkv, out: mixed }, { offset: 0, tokens });
    cache.endLayer(commands, layer);
    commands.submit();
    out.push((await gpu.readF32(mixed)).slice(-4 * SHAPE.headDim));
  }
  cache.commit();
  return out;
}

function distance(a: readonly Float32Array[], b: readonly Float32Array[]): number {
  const sum = (of: (x: number, y: number) => number): number =>
    a.reduce((all, row, l) => all + row.reduce((sum, x, i) => sum + of(x, b[l]![i]!), 0), 0);
  return Math.sqrt(sum((x, y) => (x - y) ** 2) / sum((x) => x * x));
}

Deno.test("attention over re-based tokens is attention over the same vectors at their new positions", async (t) => {
  await within(async (_, open) => {
    using exact = await open();
    using coded = await open(CODES);
    const make = {
      exact: () => new ExactCache(inside(exact).attention, SHAPE.layers, CONTEXT),
      coded: () => new CodeCache(inside(coded).compressed!.attention, SHAPE.layers, CONTEXT),
    };
    for (
      const [kind, before, tokens, skip, tolerance, split] of [
        ["exact", 45, 118, 0, 2e-3],
        ["exact", 45, 118, 1, 2e-3],
        // Both ways the same tokens are exact. A key is rounded where it stands: 2 words of codes in 720 differ.
        ["coded", 32, 118, 0, 5e-2],
        ["coded", 33, 118, 1, 5e-2],
        // Tokens 55 to 67, which only one way encodes, are zeros: the same encoded as not. A run begins amid a block.
        ["coded", 45, 118, 0, 5e-2, [45, 64]],
        ["coded", 2, 40, 0, 2e-3], // nothing is encoded
        ["coded", 40, 60, 0, 2e-3], // what comes has no codes and fills the ring
      ] as const
    ) {
      await t.step(`${kind}: ${tokens - skip} tokens after ${before}`, async () => {
        const llama = kind === "exact" ? exact : coded, prefix = rows(before, 1), text = rows(tokens, 2);
        if (split) text.fill(0, 55 * 8 * SHAPE.headDim, 68 * 8 * SHAPE.headDim);
        const next = rows(1, 3), stored = text.subarray(skip * 8 * SHAPE.headDim);
        using saved = make[kind]();
        using cache = make[kind]();
        using direct = make[kind]();
        using shifted = make[kind]();
        await feed(llama, saved, text);
        const arrays = new Map(saved.arrays(saved.layout()).map((array) => [array.name, array]));
        await feed(llama, cache, prefix);
        await cache.append(saved.layout(), (name) => arrays.get(name)!.read(), skip);
        await feed(llama, direct, prefix);
        await feed(llama, direct, stored);
        const { length, runs } = direct.layout(), { start: _, ...layout } = cache.layout();
        assertEquals([cache.length, layout], [before + tokens - skip, { length, runs: split ?? runs }]);
        await feed(llama, shifted, rows(before + 9, 1));
        await feed(llama, shifted, stored);
        const expected = await feed(llama, direct, next);
        const error = distance(expected, await feed(llama, cache, next));
        assert(error < tolerance, `relative error ${error}`);
        const other = distance(expected, await feed(llama, shifted, next));
        assert(other > 4 * tolerance, `a wrong position shows only as ${other}`);
      });
    }
  });
});

function ones(mask: number): number {
  return mask.toString(2).replaceAll("0", "").length;
}

/** Words of a cache's array. */
async function wordsOf(cache: KvCache, name: string): Promise<Uint32Array> {
  return new Uint32Array(await cache.arrays(cache.layout()).find((array) => array.name === name)!.read());
}

Deno.test("append() puts further codes behind those held while there is room", () =>
  within(async (_, open) => {
    using llama = await open(TIERS, { maxContext: 400 });
    const { attention } = inside(llama).compressed!, { kvHeads } = SHAPE, rng = new Rng(5);
    using source = new CodeCache(attention, SHAPE.layers, 400);
    using cache = new CodeCache(attention, SHAPE.layers, 400);
    await feed(llama, source, rows(196, 2));
    const layout = source.layout(), count = blocks(layout.runs[0]!), changed = new Map<string, Uint32Array>();
    for (const { name, shape } of source.arrays(layout)) {
      const isIndex = name.endsWith(".index"), size = shape.reduce((a, b) => a * b, 1);
      if (!isIndex && !name.endsWith(".further")) continue;
      const words = Uint32Array.from({ length: size }, () => rng.u32() | (isIndex ? rng.u32() | rng.u32() : 0));
      for (let at = 1; isIndex && at < size; at += 2) {
        words[at] = at < 2 * kvHeads ? 0 : words[at - 2 * kvHeads]! + ones(words[at - 1 - 2 * kvHeads]!);
      }
      changed.set(name, words);
    }
    const arrays = new Map(source.arrays(layout).map((array) => [array.name, array]));
    const read = async (name: string) => changed.get(name)?.slice().buffer ?? await arrays.get(name)!.read();
    let straddling = 0, lost = 0;
    for (let held = 0; held < 2; held++) { // in front of what comes, tokens that were exact get further codes of their own
      await cache.append(layout, read, 0);
      for (const side of ["keys", "values"] as const) {
        const { encoder: { codec } } = attention[side];
        for (let layer = 0; layer < SHAPE.layers; layer++) {
          const { rooms } = sizesOf(attention[side], layer, 400);
          const name = `layers.${layer}.${side}`, further = changed.get(`${name}.further`)!;
          const index = await wordsOf(cache, `${name}.index`), codeBlocks = index.length / 2 / kvHeads;
          const ours = await wordsOf(cache, `${name}.further`), base = codeBlocks - count;
          const whole = (codeBlocks: number, index: Uint32Array, further: Uint32Array): Uint32Array => {
            const rooms = new Array(kvHeads).fill(further.length / kvHeads / moreBits(codec) * BLOCK);
            return Uint32Array.of(...moreStarts(codec, rooms, codeBlocks), ...index, ...further);
          };
          const more = whole(codeBlocks, index, ours);
          const before = whole(count, changed.get(`${name}.index`)!, further);
          for (let k = 0; k < kvHeads; k++) {
            let rank = index[2 * (base * kvHeads + k) + 1]!;
            straddling += Number(rank % BLOCK > 0);
            for (let t = 0; t < count * BLOCK; t++) {
              const want = furtherCodes(codec, kvHeads, before, k, t);
              const fits = want.length > 0 && rank++ < rooms[k]!;
              lost += Number(want.length > 0 && !fits);
              assertEquals(
                furtherCodes(codec, kvHeads, more, k, t + base * BLOCK),
                fits ? want : [],
                `token ${t} of head ${k} of ${name}, behind ${held}`,
              );
            }
          }
        }
      }
    }
    assert(straddling > 0 && lost > 0, `${straddling} began amid a block, ${lost} found no room`);
  }));

for (const [name, kv] of [["codes", CODES], ["tiers", TIERS]] as const) {
  Deno.test(`append() puts a saved text behind any other, in ${name}`, () =>
    within(async (folder, open) => {
      const path = `${folder}/saved.safetensors`;
      using llama = await open(kv);
      const { compressed, config } = inside(llama);
      using session = llama.session();
      await go(session, [0, ...IDS.slice(0, 130)], 1); // with BOS
      await session.save(path);
      using front = llama.session();
      for (const held of [2, 3, 20, 45, 100, undefined]) { // the last one stands on what was appended before
        if (held) front.rewind(0), await go(front, IDS.slice(0, held - 1), 1);
        const before = front.tokens.length;
        await front.append(path);
        assertEquals(front.tokens.slice(before), session.tokens.slice(1));
        const decoding = new CodeCache(compressed!.attention, config.layers, CONTEXT, true);
        await front.save(`${folder}/front.safetensors`);
        using saved = await openCache(`${folder}/front.safetensors`);
        await decoding.append(saved.layout, saved.read, 0);
        const fused = await go(front, [9, 8, 7], 50);
        using plain = new Session(inside(llama), decoding, saved.tokens);
        const slow = await go(plain, [9, 8, 7], 50);
        assertEquals(fused.map(([id]) => id), slow.map(([id]) => id), `after ${before}`);
        front.rewind(before + 60);
        await go(front, [4, 5], 3);
      }
      await assertRejects(
        async () => {
          for (;;) await front.append(path);
        },
        RangeError,
        "Cannot",
      );
    }));
}
