import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { type CodecShape, fields, pairStages, rawCount, tableRows } from "../../src/core/codec.ts";
import { toF16 } from "../../src/core/f16.ts";
import { BLOCK, blocks } from "../../src/core/pack.ts";
import { codeBeamShapes } from "../../src/core/shapes.ts";
import { Rng } from "../../src/core/rng.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { CodeBeam } from "../../src/kernels/code_beam.ts";
import { encodeFields } from "../../src/kernels/code_encode.ts";
import { codeBeamRef } from "../../src/ref/code_beam.ts";
import { codeEncodeRef } from "../../src/ref/code_encode.ts";
import { codeGramRef } from "../../src/ref/code_gram.ts";
import { residualAt } from "../../src/ref/code_residual.ts";
import { onEachReading } from "../_gpu.ts";
import { asWords, halves, KINDS, residuals } from "./_codec.ts";

const MIXED: CodecShape = {
  headDim: 32,
  stages: [{ kind: "pair", tied: false }, { kind: "sub", pairs: 4 }, { kind: "pair", tied: true }],
};

/** Codes `[T][K][fields]` and what is left, of residuals, by random words or those given. */
async function run(
  gpu: Gpu,
  codec: CodecShape,
  heads: number,
  tokens: number,
  data: Float32Array,
  beam: number,
  { bits, values } = halves(heads * tableRows(codec) * codec.headDim, 0.06, 42),
  masks = new Uint32Array(heads * blocks(tokens)).fill(~0),
) {
  const capacity = blocks(tokens) * BLOCK, shapes = codeBeamShapes({ codec, heads, capacity });
  using residual = gpu.upload("residual", "f32", shapes.residual, data);
  using table = gpu.upload("table", "u32", shapes.table, asWords(bits));
  using gram = gpu.upload("gram", "f32", shapes.gram, Float32Array.from(codeGramRef(values, heads, codec)));
  using list = gpu.upload("fields", "u32", shapes.fields, encodeFields(codec));
  using missed = gpu.upload("missed", "u32", [heads, blocks(tokens)], masks);
  const count = rawCount(codec), untouched = new Uint32Array(heads * capacity * count).fill(0xabcdef01);
  using raw = gpu.upload("raw", "u32", shapes.raw, untouched);
  const op = await CodeBeam.create(gpu, codec, beam), commands = gpu.commands();
  op.encode(commands, { residual, table, gram, fields: list, missed, raw }, tokens);
  commands.submit();
  const found = await gpu.readU32(raw), codes = new Uint16Array(tokens * heads * count);
  for (let i = 0; i < found.length; i++) {
    const f = i % count, t = Math.floor(i / count) % capacity, head = Math.floor(i / count / capacity);
    if (t >= tokens) assertEquals(found[i], 0xabcdef01, "no other tokens");
    else codes[(t * heads + head) * count + f] = found[i]!;
  }
  return { codes, values, residual: await gpu.readF32(residual) };
}

Deno.test("code_beam", (t) =>
  onEachReading(t, async (gpu, t) => {
    const cases = [[MIXED, 2, 7, 4], [MIXED, 1, 34, 3], [pairStages(8, 3, true), 1, 3, 8], [
      pairStages(64, 2, false),
      1,
      2,
      4,
    ]] as const;
    for (const [codec, heads, tokens, beam] of cases) {
      for (const kind of tokens === 7 ? KINDS : ["normal"] as const) {
        await t.step(
          `keeps the ways that a search over all words keeps: ${kind}, ${codec.headDim}, ${tokens} tokens, beam ${beam}`,
          async () => {
            const dims = { headDim: codec.headDim, heads, tokens };
            const data = residuals(dims, kind, 41).map((x) => Number.isNaN(x) ? 0 : x);
            const { codes, values, residual } = await run(gpu, codec, heads, tokens, data, beam);
            const left = Float64Array.from(data), want = codeBeamRef(left, values, codec, heads, tokens, beam);
            const count = fields(codec).length;
            let same = 0;
            for (let i = 0; i < tokens * heads; i++) {
              const own = codes.subarray(i * count, (i + 1) * count),
                equal = `${own}` === `${want.subarray(i * count, (i + 1) * count)}`;
              let mine = 0, best = 0;
              for (let c = 0; c < codec.headDim; c++) {
                const at = residualAt(codec.headDim, tokens, i % heads, Math.floor(i / heads), c);
                mine += residual[at]! ** 2;
                best += left[at]! ** 2;
                if (equal) assert(Math.abs(residual[at]! - left[at]!) < 1e-6, `component ${c} of ${i}`);
              }
              same += Number(equal);
              if (!equal) assert(Math.abs(mine / best - 1) < 1e-3, `another way at ${i}: ${mine} for ${best}`);
            }
            if (kind === "normal") assert(same >= 0.97 * tokens * heads, `${same} of ${tokens * heads}`);
          },
        );
      }
    }
    const TIERED: CodecShape = { ...MIXED, base: 1 }, PAIRED: CodecShape = { ...pairStages(64, 3, false), base: 2 };
    for (const [codec, tokens, beam] of [[TIERED, 20, 4], [TIERED, 11, 8], [PAIRED, 10, 4]] as const) {
      await t.step(`further stages code a token at its own gain: ${codec.headDim}, beam ${beam}`, async () => {
        const { headDim } = codec, heads = 2, dims = { headDim, heads, tokens }, data = residuals(dims, "normal", 46);
        for (let token = 0; token < tokens; token++) { // up to thousands of times as long as the words
          for (let c = 0; c < heads * headDim; c++) {
            const at = residualAt(headDim, tokens, Math.floor(c / headDim), token, c % headDim);
            data[at] = Number.isNaN(data[at]) ? 0 : data[at]! * 0.02 * 3 ** (token % 10);
          }
        }
        const { codes, values, residual } = await run(gpu, codec, heads, tokens, data, beam);
        const left = Float64Array.from(data), want = codeBeamRef(left, values, codec, heads, tokens, beam);
        const count = rawCount(codec), gains = new Set<number>();
        let same = 0;
        for (let i = 0; i < tokens * heads; i++) {
          const own = codes.subarray(i * count, (i + 1) * count), its = want.subarray(i * count, (i + 1) * count);
          gains.add(its.at(-1)!);
          if (`${own}` !== `${its}`) continue;
          same++;
          for (let c = 0; c < headDim; c++) {
            const at = residualAt(headDim, tokens, i % heads, Math.floor(i / heads), c);
            assert(
              Math.abs(residual[at]! - left[at]!) <= 1e-5 * Math.max(1, Math.abs(left[at]!)),
              `component ${c} of ${i}`,
            );
          }
        }
        assert(same >= 0.9 * tokens * heads, `${same} of ${tokens * heads}`);
        assert(gains.size > 5 && gains.has(0) && gains.has(15), `gains ${[...gains]}`);
      });
    }
    await t.step("with gains, codes the tokens that are missed and spares what none near is", async () => {
      const dims = { headDim: 32, heads: 2, tokens: 70 }, masks = Uint32Array.of(0x00f00100, 0, 0x21, 0, 0x80000000, 0);
      const data = residuals(dims, "normal", 47).map((x) => Number.isNaN(x) ? 0 : x), count = rawCount(TIERED);
      const all = await run(gpu, TIERED, 2, 70, data, 4),
        some = await run(gpu, TIERED, 2, 70, data, 4, undefined, masks);
      for (let i = 0; i < 140; i++) {
        const head = i % 2, t = Math.floor(i / 2), group = masks[3 * head + (t >> 5)]! >>> (t & 28) & 15; // of four tokens
        const want = group ? all.codes.subarray(i * count, (i + 1) * count) : new Uint16Array(count).fill(0xef01);
        assertEquals(some.codes.subarray(i * count, (i + 1) * count), want, `token ${t} of head ${head}`);
      }
    });
    await t.step("with one way, codes as the greedy search does", async () => {
      const dims = { headDim: 32, heads: 2, tokens: 7 },
        data = residuals(dims, "normal", 43).map((x) => Number.isNaN(x) ? 0 : x);
      const { codes, values } = await run(gpu, MIXED, 2, 7, data, 1);
      assertEquals(codes, codeEncodeRef(Float64Array.from(data), values, MIXED, 2, 7));
    });
    await t.step("on ties takes the lower way, then the lower code, also where more tie than are listed", async () => {
      const rng = new Rng(44), eighths = () => Math.floor(rng.uniform() * 3 - 1) / 8; // sums are exact
      for (const beam of [1, 3, 4, 5, 8]) {
        const dims = { headDim: 32, heads: 1, tokens: 5 }, rows = tableRows(MIXED);
        const data = residuals(dims, "normal", 45).map((x) => Number.isNaN(x) ? x : eighths());
        const values = Float64Array.from({ length: rows * 32 }, eighths);
        for (let row = 0; row < rows; row++) {
          if (row % 64 >= beam) values.copyWithin(row * 32, (row - beam) * 32, (row - beam + 1) * 32);
        }
        const words = { values, bits: Uint16Array.from(values, toF16) };
        const { codes, residual } = await run(gpu, MIXED, 1, 5, data, beam, words), left = Float64Array.from(data);
        assertEquals(codes, codeBeamRef(left, values, MIXED, 1, 5, beam), `beam ${beam}`);
        assertEquals(residual, Float32Array.from(left), `beam ${beam}`);
      }
    });
    await t.step("refuses beams out of range and codes that do not fit", async () => {
      const codec = pairStages(8, 1, true);
      for (const beam of [0, 9, 1.5]) {
        await assertRejects(() => CodeBeam.create(gpu, codec, beam), RangeError, `a beam of ${beam}`);
      }
      const op = await CodeBeam.create(gpu, codec, 4), shapes = codeBeamShapes({ codec, heads: 1, capacity: 32 });
      const x = (name: keyof typeof shapes) => gpu.alloc(name, "f32", shapes[name]);
      const io = { residual: x("residual"), table: x("table"), gram: x("gram"), fields: x("fields"), raw: x("raw") };
      assertThrows(() => op.encode(gpu.commands(), io, 33), RangeError, "33 tokens as there are 1 blocks");
      assertThrows(() => op.encode(gpu.commands(), { ...io, raw: io.gram }, 5), TypeError, "'raw'");
      const gained = await CodeBeam.create(gpu, TIERED, 4),
        tiers = codeBeamShapes({ codec: TIERED, heads: 1, capacity: 32 });
      const y = (name: keyof typeof tiers) => gpu.alloc(name, "f32", tiers[name]);
      const own = { residual: y("residual"), table: y("table"), gram: y("gram"), fields: y("fields"), raw: y("raw") };
      assertThrows(() => gained.encode(gpu.commands(), own, 5), TypeError, "'missed'");
    });
  }));
