import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { type CodecShape, pairStages, type Stage, tableRows } from "../../src/core/codec.ts";
import { fromF16Array, toF16Array } from "../../src/core/f16.ts";
import { unpackCodes } from "../../src/core/pack.ts";
import { Rng } from "../../src/core/rng.ts";
import { ropeTable, ropeTableRows } from "../../src/core/rope_table.ts";
import { Encoder, type EncodeSpan } from "../../src/codebook/encode.ts";
import { addMoments, headMetric, metricCell, metricRoots, timesMatrix } from "../../src/codebook/metric.ts";
import { measureStages, trainStages } from "../../src/codebook/train.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import type { Tensor } from "../../src/gpu/tensor.ts";
import type { VectorForm } from "../../src/kernels/code_residual.ts";
import { codeDecodeRef as packedDecodeRef } from "../../src/ref/code_decode.ts";
import { codeDecodeRef } from "../../src/ref/code_encode.ts";
import { residualAt } from "../../src/ref/code_residual.ts";
import { relativeError } from "../_assert.ts";
import { correlated } from "./_vectors.ts";

const dims = { kvHeads: 2, headDim: 16 }, TOKENS = 150;
const CODEC: CodecShape = {
  headDim: 16,
  stages: [{ kind: "pair", tied: false }, { kind: "sub", pairs: 4 }, { kind: "pair", tied: true }],
};

Deno.test("Encoder", async (t) => {
  using gpu = await Gpu.create();
  const data = correlated(TOKENS, 32, 101), rows = { form: "rows", parts: [data] } as const;
  const { stages } = await trainStages(gpu, dims, rows, CODEC, { iterations: 4 });
  using source = gpu.upload("source", "f32", [TOKENS, 32], data);

  /** Codes of tokens, and the vectors they decode to. */
  async function encode(form: VectorForm, from: Tensor, span: EncodeSpan, chunk?: number, rope?: Tensor) {
    using encoder = await Encoder.create(gpu, dims, CODEC, { form, chunk });
    using table = encoder.table(stages);
    const { codes, scales } = encoder.allocCodes((span.block ?? 0) * 32 + span.tokens), commands = gpu.commands();
    using _codes = codes, _scales = scales;
    encoder.encode(commands, table, { source: from, codes, scales, ropeTable: rope }, span);
    commands.submit();
    const words = new Uint16Array(await gpu.read(table.table)), first = (span.block ?? 0) * 32;
    const halves = fromF16Array(new Uint16Array(await gpu.read(scales))).subarray(first, first + span.tokens);
    const list = unpackCodes(CODEC, 2, await gpu.readU32(codes), first + span.tokens).subarray(first * 2 * 4);
    assertEquals(words.length, 2 * tableRows(CODEC) * 16);
    return {
      list,
      halves,
      vectors: codeDecodeRef(
        CODEC,
        2,
        Float64Array.from(words, (_, i) => fromF16Array(words.subarray(i, i + 1))[0]!),
        list,
        halves,
      ),
    };
  }

  await t.step("decodes to vectors that are off by what training says", async () => {
    const { vectors } = await encode("rows", source, { tokens: TOKENS });
    const { nmse, energy } = await measureStages(gpu, dims, rows, CODEC, stages);
    const want = nmse[2]!.reduce((sum, x, h) => sum + x * energy[h]!, 0) / (energy[0]! + energy[1]!);
    const got = relativeError(vectors, data) ** 2;
    assert(Math.abs(got / want - 1) < 1e-3, `${got} for ${want}`);
  });

  await t.step("gives the same codes in chunks, from any row and at any block", async () => {
    const whole = await encode("rows", source, { tokens: TOKENS });
    assertEquals((await encode("rows", source, { tokens: TOKENS }, 32)).list, whole.list);
    const part = await encode("rows", source, { tokens: 70, first: 20, block: 3 }, 64);
    assertEquals(part.list, whole.list.subarray(20 * 8, 90 * 8));
    assertEquals(part.halves, whole.halves.subarray(20, 90));
  });

  await t.step("takes an exact cache, and turns its keys back", async () => {
    const theta = Float64Array.from({ length: 8 }, (_, d) => 100 ** (-d / 8)), position = 700, capacity = TOKENS + 9;
    const plain = new Float32Array(2 * capacity * 16), turned = plain.slice();
    for (let i = 0; i < data.length; i++) {
      const t = Math.floor(i / 32),
        head = Math.floor(i / 16) % 2,
        c = i % 16,
        d = c % 8,
        angle = (position + t) * theta[d]!;
      const at = (head * capacity + 5 + t) * 16, [re, im] = [data[i - c + d]!, data[i - c + d + 8]!];
      plain[at + c] = data[i]!;
      turned[at + c] = c < 8
        ? re * Math.cos(angle) - im * Math.sin(angle)
        : re * Math.sin(angle) + im * Math.cos(angle);
    }
    const upload = (x: Float32Array) =>
      gpu.upload("cache", "u32", [2, capacity, 8], new Uint32Array(toF16Array(x).buffer));
    using cache = upload(plain), rotated = upload(turned);
    using rope = gpu.upload("rope", "f32", [ropeTableRows(900), 8, 2], ropeTable(theta, 900));
    const want = relativeError((await encode("rows", source, { tokens: TOKENS })).vectors, data);
    const a = await encode("cache", cache, { tokens: TOKENS, first: 5 });
    const b = await encode("rotated cache", rotated, { tokens: TOKENS, first: 5, position }, 64, rope);
    for (const { vectors } of [a, b]) assert(Math.abs(relativeError(vectors, data) / want - 1) < 0.02);
    const off = await encode("rotated cache", rotated, { tokens: TOKENS, first: 5, position: position + 1 }, 64, rope);
    assert(relativeError(off.vectors, data) > 2 * want, "the position matters");
  });

  const untied = pairStages(16, 3, false),
    groups = { ...untied, stages: [...untied.stages.slice(1), { kind: "sub", pairs: 4 } as const] };
  for (const codec of [untied, groups]) {
    await t.step(
      `in a metric, words are the plain ones and errors are least there: ${codec.stages[2]!.kind}`,
      async () => {
        const rng = new Rng(7), metrics = new Float64Array(2 * 256);
        for (let i = 0; i < 2; i++) { // a few directions that matter more
          const rows = Float32Array.from({ length: 4 * 16 }, () => rng.normal() * 2);
          addMoments(metrics.subarray(i * 256, (i + 1) * 256), rows, { headDim: 16, group: 1, stride: 16 });
        }
        const metric = metricRoots(metrics, 16, metricCell(codec)), held = correlated(TOKENS, 32, 102);
        using other = gpu.upload("held out", "f32", [TOKENS, 32], held);
        /** Squared errors of what an encoder makes of held-out vectors: plain, and in the metric. */
        const errors = async (words: readonly Uint16Array[], inMetric: boolean, beam: number) => {
          using encoder = await Encoder.create(gpu, dims, codec, { form: "rows", beam, chunk: 160 });
          using table = encoder.table(words, inMetric ? metric : undefined);
          const { codes, scales } = encoder.allocCodes(TOKENS), commands = gpu.commands();
          using _codes = codes, _scales = scales;
          encoder.encode(commands, table, { source: other, codes, scales }, { tokens: TOKENS });
          commands.submit();
          const halves = fromF16Array(new Uint16Array(await gpu.read(scales)));
          const numbers = Float64Array.from(fromF16Array(new Uint16Array(await gpu.read(table.table))));
          const vectors = codeDecodeRef(
            codec,
            2,
            numbers,
            unpackCodes(codec, 2, await gpu.readU32(codes), TOKENS),
            halves,
          );
          const left = await gpu.readF32(encoder.residual);
          let plain = 0, inside = 0;
          for (let i = 0; i < vectors.length; i += 16) {
            const t = Math.floor(i / 32), head = i / 16 % 2, error = new Float64Array(16);
            for (let c = 0; c < 16; c++) error[c < 8 ? 2 * c : 2 * c - 15] = vectors[i + c]! - held[i + c]!;
            const turned = timesMatrix(error, headMetric(metric, head, 16), 16);
            plain += error.reduce((sum, x) => sum + x * x, 0);
            inside += turned.reduce((sum, x) => sum + x * x, 0);
            if (!inMetric) continue;
            for (let c = 0; c < 16; c++) { // what is left is the error in the metric, over the scale
              const own = -left[residualAt(16, 160, head, t, c)]! * halves[t]!;
              assert(Math.abs(own - turned[c]!) < 0.02 * halves[t]!, `token ${t}: ${own} for ${turned[c]}`);
            }
          }
          return { plain, inside };
        };
        const options = { iterations: 8 };
        const inside = (await trainStages(gpu, dims, rows, codec, { ...options, metric })).stages;
        const outside = (await trainStages(gpu, dims, rows, codec, options)).stages;
        const a = await errors(outside, false, 1), b = await errors(inside, true, 1), c = await errors(inside, true, 4);
        assert(b.inside < 0.8 * a.inside, `in the metric: ${b.inside} for ${a.inside}`);
        assert(b.plain > a.plain, `at a price: ${b.plain} for ${a.plain}`);
        assert(c.inside < 0.97 * b.inside, `beam: ${c.inside} for ${b.inside}`);
        const { nmse, energy } = await measureStages(gpu, dims, { ...rows, parts: [held] }, codec, inside, { metric });
        const want = nmse[2]!.reduce((sum, x, h) => sum + x * energy[h]!, 0);
        assert(Math.abs(b.inside / want - 1) < 0.01, `${b.inside} for ${want}, as measured`);
      },
    );
  }

  const many = pairStages(16, 5, false), mixed: CodecShape = { ...many, stages: [...many.stages] };
  (mixed.stages as Stage[])[2] = { kind: "sub", pairs: 4 };
  for (const codec of [many, mixed]) {
    await t.step(`further stages reach what no word is made for: ${codec.stages[2]!.kind}`, async () => {
      const isOdd = (t: number): boolean => t % 10 === 3;
      const parts = [correlated(2000, 32, 104).map((x, i) => i % 32 < 16 ? x : 0.1 * x)];
      const { stages } = await trainStages(gpu, dims, { form: "rows", parts }, codec, { iterations: 6 });
      // The second head is small beside the first, but for every tenth token.
      const held = correlated(TOKENS, 32, 103).map((x, i) => i % 32 < 16 || isOdd(Math.floor(i / 32)) ? x : 0.1 * x);
      using other = gpu.upload("held out", "f32", [TOKENS, 32], held);
      /** Squared errors of the second heads of the odd tokens and of the others. */
      const errors = async (shape: CodecShape): Promise<[odd: number, others: number]> => {
        using encoder = await Encoder.create(gpu, dims, shape, { form: "rows", beam: 4 });
        using table = encoder.table(stages, undefined, shape.base ? [0, 0] : undefined); // all tokens have some
        const { codes, scales, more } = encoder.allocCodes(TOKENS, [1, 1]), commands = gpu.commands();
        using _codes = codes, _scales = scales, _more = more;
        encoder.encode(commands, table, { source: other, codes, scales, more }, { tokens: TOKENS });
        commands.submit();
        const vectors = packedDecodeRef({
          ...{ codec: shape, kvHeads: 2, codes: await gpu.readU32(codes), more: more && await gpu.readU32(more) },
          words: Float64Array.from(fromF16Array(new Uint16Array(await gpu.read(table.table)))),
          scales: Float64Array.from(fromF16Array(new Uint16Array(await gpu.read(scales)))),
        }, { tokens: TOKENS });
        const sums: [number, number] = [0, 0];
        for (let t = 0; t < TOKENS; t++) {
          for (let c = 0; c < 16; c++) {
            sums[isOdd(t) ? 0 : 1] += (vectors[(TOKENS + t) * 16 + c]! - held[t * 32 + 16 + c]!) ** 2;
          }
        }
        return sums;
      };
      const plain = await errors(codec), tiers = await errors({ ...codec, base: 2 });
      assert(tiers[0] < 0.2 * plain[0], `odd tokens: ${tiers[0]} for ${plain[0]}`);
      assert(tiers[1] < plain[1], `others: ${tiers[1]} for ${plain[1]}`);
    });
  }

  await t.step("tables of several layers take turns", async () => {
    const codec = pairStages(16, 2, false), rng = new Rng(8), size = 2 * 128 * 16;
    const words = (): Uint16Array[] =>
      codec.stages.map(() => toF16Array(Float64Array.from({ length: size }, () => rng.normal() * 0.2)));
    const metrics = new Float64Array(2 * 256);
    addMoments(metrics.subarray(0, 256), Float32Array.from({ length: 64 }, () => rng.normal()), {
      ...{ headDim: 16, group: 1, stride: 16 },
    });
    const layers = [[words(), metricRoots(metrics, 16)], [words(), undefined], [
      words(),
      metricRoots(metrics, 16),
    ]] as const;
    /** Codes of every layer, of calls that go to the GPU together. */
    const codesOf = async (some: typeof layers[number][]): Promise<Uint32Array[]> => {
      using encoder = await Encoder.create(gpu, dims, codec, { form: "rows" });
      using stack = new DisposableStack();
      const tables = some.map(([stages, metric]) => stack.use(encoder.table(stages, metric)));
      const outs = some.map(() => encoder.allocCodes(TOKENS)), commands = gpu.commands();
      for (const [i, table] of tables.entries()) {
        stack.use(outs[i]!.codes), stack.use(outs[i]!.scales);
        encoder.encode(commands, table, { source, ...outs[i]! }, { tokens: TOKENS });
      }
      commands.submit();
      return await Promise.all(outs.map(({ codes }) => gpu.readU32(codes)));
    };
    const together = await codesOf([...layers]);
    for (const [i, layer] of layers.entries()) assertEquals(together[i], (await codesOf([layer]))[0]);
  });

  await t.step("refuses ties in a metric", async () => {
    using encoder = await Encoder.create(gpu, dims, CODEC, { form: "rows" });
    assertThrows(() => encoder.table(stages, new Uint16Array(512)), RangeError, "no stage may be tied");
  });

  await t.step("codes a token of zeros as zeros", async () => {
    using zeros = gpu.upload("zeros", "f32", [3, 32], new Float32Array(96));
    const { vectors } = await encode("rows", zeros, { tokens: 3 });
    assert(vectors.every((x) => x === 0));
  });

  await t.step("refuses another head dimension and odd chunks", async () => {
    await assertRejects(
      () => Encoder.create(gpu, dims, pairStages(64, 1, true), { form: "rows" }),
      TypeError,
      "is for 64",
    );
    await assertRejects(() => Encoder.create(gpu, dims, CODEC, { form: "rows", chunk: 33 }), RangeError, "it is 33");
  });
});
