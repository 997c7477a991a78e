import { assertEquals, assertThrows } from "@std/assert";
import { codeBits, type CodecShape } from "../../src/core/codec.ts";
import { Rng } from "../../src/core/rng.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { AttnCodes, type AttnCodesVariant, chooseAttnCodes } from "../../src/kernels/attn_codes.ts";
import { attnCodesMassBytes } from "../../src/kernels/attn_codes_mass.ts";
import type { TableLayout } from "../../src/kernels/packed_codes.ts";
import { attnCodesScoresRef } from "../../src/ref/attn_codes_scores.ts";
import { attnCodesValuesRef } from "../../src/ref/attn_codes_values.ts";
import { attnMergeRef } from "../../src/ref/attn_merge.ts";
import { codeDecodeRef } from "../../src/ref/code_decode.ts";
import { exact, type Round } from "../../src/ref/round.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { onEachText, poisoned } from "../_gpu.ts";
import { asGpu, codec, type CodesSample, packedSample, pairs, rope, tiered, toHalf, uploadPacked } from "./_codes.ts";

interface Case extends CodesSample {
  readonly qHeads: number;
  readonly kvHeads: number;
  readonly keys: CodecShape;
  readonly values: CodecShape;
  readonly tokens: number;
  readonly base?: number;
  /** First token that is attended to. */
  readonly first?: number;
  readonly sharpness?: number;
}

/** Every head dimension, ratio, length and kind of codec once, not their product. */
const CASES: Case[] = [
  { qHeads: 4, kvHeads: 1, keys: pairs(128, 11), values: pairs(128, 11), tokens: 4097, base: 4 },
  { qHeads: 8, kvHeads: 2, keys: pairs(128, 21), values: pairs(128, 21), tokens: 257 },
  { qHeads: 2, kvHeads: 2, keys: pairs(64, 5), values: pairs(64, 5), tokens: 1, base: 7 },
  { qHeads: 4, kvHeads: 2, keys: pairs(64, 7), values: pairs(64, 3), tokens: 31 },
  { qHeads: 2, kvHeads: 1, keys: pairs(64, 10), values: pairs(64, 10), tokens: 4097, isSkewed: true, base: 120000 },
  { qHeads: 3, kvHeads: 1, keys: pairs(80, 12), values: pairs(80, 8), tokens: 33 },
  { qHeads: 7, kvHeads: 1, keys: codec(96, "p", 8, 16), values: codec(96, "p", 16), tokens: 65, base: 4 },
  { qHeads: 8, kvHeads: 1, keys: codec(256, "p", 8, 16, "p"), values: pairs(256, 3), tokens: 130 },
  { qHeads: 8, kvHeads: 2, keys: codec(128, "p", "p", 8, 16), values: codec(128, "p", 8, 32), tokens: 1000, base: 4 },
  { qHeads: 4, kvHeads: 1, keys: codec(128, 8, "p"), values: codec(128, 4), tokens: 64, isSkewed: true },
  { qHeads: 4, kvHeads: 2, keys: tiered(pairs(64, 12), 5), values: tiered(pairs(64, 8), 2), tokens: 163, base: 4 },
  { qHeads: 4, kvHeads: 1, keys: tiered(codec(128, "p", 8, 16), 1), values: tiered(pairs(128, 8), 3), tokens: 700 },
  // Heads 0 and 2, and 1 and 3, have as much room for further codes as each other.
  { qHeads: 4, kvHeads: 4, keys: tiered(pairs(64, 4), 2), values: tiered(codec(64, "p", 8), 1), tokens: 99 },
  { qHeads: 2, kvHeads: 1, keys: pairs(80, 3), values: tiered(pairs(80, 4), 3), tokens: 31 },
  { qHeads: 4, kvHeads: 1, keys: codec(80, "p", 20), values: codec(80, 8, "p"), tokens: 32, sharpness: 40 },
];

/** A whole context, where there is a GPU to attend to it. */
const LONG: Case[] = [
  { qHeads: 4, kvHeads: 1, keys: pairs(128, 11), values: pairs(128, 11), tokens: 131072 },
  { qHeads: 4, kvHeads: 1, keys: codec(128, "p", 8, 16, 32), values: codec(128, "p", 8, 16, 32), tokens: 131072 },
  { qHeads: 4, kvHeads: 1, keys: tiered(pairs(128, 15), 9), values: tiered(pairs(128, 12), 6), tokens: 131072 },
];

/** Further codes of none, some and all tokens, of lengths about those of octets, blocks and rounds of ranks. */
const RAGGED: Case[] = ([
  ...[[1, 1], [7, 0.3], [31, 0.5], [32, 0], [33, 0.3], [63, 1], [65, 0.2], [100, 0.1, 32], [255, 0.5]],
  ...[[1000, 0.05, 96], [4097, 0.25], [4097, 1], [4095, 0.4, 64]],
] as [number, number, number?][]).map(([tokens, share, first]) => ({
  ...{ qHeads: 6, kvHeads: 2, tokens, share, first, base: 4, sharpness: 0.25 }, // no token outweighs all others
  keys: tiered(codec(64, "p", 16, 8, "p"), 2),
  values: tiered(codec(64, 8, "p", "p", 32), 1),
}));

/** Cases that run in other variants too, and without subgroups. */
const VARIED = [CASES[0]!, CASES[8]!, CASES[10]!];

interface Sample {
  readonly q: Float32Array;
  readonly keys: ReturnType<typeof packedSample>;
  readonly values: ReturnType<typeof packedSample>;
}

function sampleOf(it: Case): Sample {
  const { headDim } = it.keys,
    q = normals(new Rng(it.tokens), it.qHeads * headDim, (it.sharpness ?? 1) / Math.sqrt(headDim));
  const tokens = (it.first ?? 0) + it.tokens, keys = packedSample(it.keys, it.kvHeads, tokens, 11, it);
  return { q, keys, values: packedSample(it.values, it.kvHeads, tokens, 12, it) };
}

/** Decode, then attend. */
function reference(it: Case, { q, keys, values }: Sample, frequencies: Float64Array, round: Round, roundSum = round) {
  const { qHeads, kvHeads, tokens, first, keys: { headDim } } = it, dims = { qHeads, kvHeads, headDim };
  const rotation = { frequencies, position: (_: number, t: number) => (it.base ?? 0) + t };
  const scores = attnCodesScoresRef(q, codeDecodeRef(keys, { first, tokens, rotation }, round, roundSum), dims, round);
  const { o, md } = attnCodesValuesRef(scores, codeDecodeRef(values, { first, tokens }, round, roundSum), dims, round);
  for (let i = 0; i < o.length; i++) o[i] = round(o[i]! / md[2 * Math.floor(i / headDim) + 1]!);
  return o;
}

/** Runs a case, its states after a first that stays untouched, and folds its states. */
async function run(gpu: Gpu, it: Case, sample: Sample, variant: AttnCodesVariant): Promise<Float64Array> {
  const { qHeads, tokens, first = 0, base = 0, keys: { headDim } } = it;
  using stack = new DisposableStack();
  const op = stack.use(await AttnCodes.create(gpu, it, first + tokens, { variant }));
  const keys = uploadPacked(gpu, sample.keys),
    values = uploadPacked(gpu, sample.values),
    states = 1 + op.states(tokens);
  const q = gpu.upload("q", "f32", [qHeads, headDim], sample.q);
  const { ropeTable } = rope(gpu, headDim, base + first + tokens + 8);
  const partialO = poisoned(gpu, "partial_o", [states, qHeads, headDim]);
  const partialMd = poisoned(gpu, "partial_md", [states, qHeads, 2]);
  for (const tensor of [...Object.values(keys), ...Object.values(values), q, ropeTable, partialO, partialMd]) {
    stack.use(tensor);
  }
  const commands = gpu.commands();
  const io = { q, keys, values, ropeTable, partialO, partialMd };
  assertEquals(op.encode(commands, io, { first, tokens, base, state: 1 }), states - 1);
  commands.submit();
  const o = await gpu.readF32(partialO), md = await gpu.readF32(partialMd);
  assertEquals(o.subarray(0, qHeads * headDim).every(Number.isNaN), true);
  const dims = { rows: qHeads, splits: states - 1, headDim };
  return attnMergeRef(o.subarray(qHeads * headDim), md.subarray(2 * qHeads), dims);
}

interface Expectation {
  readonly sample: Sample;
  readonly want: Float64Array;
  readonly naive: Float64Array;
}

const expectations = new Map<Case, Expectation>();

/** A case's sample and what comes of it, worked out once for both texts: the longest take half a minute. */
function expectation(gpu: Gpu, it: Case): Expectation {
  const known = expectations.get(it);
  if (known) return known;
  const { frequencies, ropeTable } = rope(gpu, it.keys.headDim, 1), sample = sampleOf(it);
  ropeTable[Symbol.dispose]();
  const made = {
    sample,
    want: reference(it, sample, frequencies, exact),
    naive: reference(it, sample, frequencies, Math.fround),
  };
  expectations.set(it, made);
  return made;
}

/** What the device chooses, and what others would. */
function variants(gpu: Gpu, it: Case): Record<string, AttnCodesVariant> {
  const chosen = chooseAttnCodes(it, asGpu(gpu)), { keys } = chosen;
  const { values } = chooseAttnCodes({ ...it, values: codec(it.values.headDim, 4) }, asGpu(gpu)); // never as mass
  if (!("decode" in values)) throw new TypeError("sub stages have no mass");
  const decode = (change: Partial<TableLayout>) => ({ decode: { ...values.decode, ...change } });
  const commuted = { words: "words_f32", isCommuted: true, heads: 1 } as const;
  return {
    "values decoded, words summed in f32": {
      keys: { ...keys, words: "words_half" },
      values: decode({ words: "words_half" }),
    },
    "by 32 lanes a token": { keys: { ...keys, tokenLanes: 32 }, values: decode({ tokenLanes: 32 }) },
    commuted: { keys: { ...keys, ...commuted }, values: decode({ heads: 1 }) },
    "as on a CPU": chooseAttnCodes(it, { ...asGpu(gpu), isFallback: true }),
  };
}

Deno.test("attn_codes", (t) =>
  onEachText(t, async (gpu, t) => {
    for (const it of gpu.isFallback ? CASES : [...CASES, ...LONG]) {
      if (!gpu.subgroups && ![...VARIED, ...LONG].includes(it)) continue; // each kernel takes seconds to compile on a CPU
      const { sample, want, naive } = expectation(gpu, it);
      const others = VARIED.includes(it) && gpu.subgroups ? variants(gpu, it) : {};
      for (const [name, variant] of Object.entries({ "as chosen": chooseAttnCodes(it, asGpu(gpu)), ...others })) {
        const { keys, values, ...rest } = it, bits = `${codeBits(keys)} and ${codeBits(values)} bits`;
        await t.step(`is as accurate as f32 ${name}: D=${keys.headDim}, ${bits}, ${JSON.stringify(rest)}`, async () => {
          assertAsAccurateAs(await run(gpu, it, sample, variant), naive, want);
        });
      }
    }
    for (const it of RAGGED) {
      const { tokens, share, first = 0 } = it,
        chosen = chooseAttnCodes(it, asGpu(gpu)),
        few = { lanes: 64, workgroups: 2 };
      await t.step(
        `is as accurate as f32 where ${share} of ${tokens} tokens from ${first} on have further codes`,
        async () => {
          const { sample, want, naive } = expectation(gpu, it);
          if (!("decode" in chosen.values)) throw new TypeError("a tier of values has no mass");
          const small = { keys: { ...chosen.keys, ...few }, values: { decode: { ...chosen.values.decode, ...few } } };
          // Two groups of lanes: a workgroup's tokens begin and end amid blocks.
          const cut = { ...chosen, keys: { ...chosen.keys, tokenLanes: 32, lanes: 64 } };
          for (const variant of [chosen, small, cut]) {
            assertAsAccurateAs(await run(gpu, it, sample, variant), naive, want);
          }
        },
      );
    }
    await t.step("sums words off the grid as accurately as half precision", async () => {
      const it = { qHeads: 2, kvHeads: 1, keys: pairs(64, 5), values: codec(64, "p", 8), tokens: 97, isOnGrid: false };
      const { frequencies, ropeTable } = rope(gpu, 64, 1),
        sample = sampleOf(it),
        variant = chooseAttnCodes(it, asGpu(gpu));
      ropeTable[Symbol.dispose]();
      assertEquals(variant.keys.words, gpu.f16 ? "words_f16" : "words_half");
      const naive = reference(it, sample, frequencies, Math.fround, toHalf);
      assertAsAccurateAs(await run(gpu, it, sample, variant), naive, reference(it, sample, frequencies, exact));
    });
    await t.step("goes in rounds where scores would take too much", async () => {
      const it = { qHeads: 64, kvHeads: 1, keys: codec(64, 8), values: codec(64, "p"), tokens: 2 ** 17 + 33 };
      using op = await AttnCodes.create(gpu, it, it.tokens);
      const one = op.states(2 ** 17);
      assertEquals(op.states(it.tokens), one + op.states(33));
      assertEquals(op.bytes < 36 * 2 ** 20, true);
    });
    await t.step("writes nothing for no tokens, and refuses too many", async () => {
      const it = { qHeads: 2, kvHeads: 1, keys: pairs(64, 5), values: codec(64, "p", 8), tokens: 64 };
      const sample = sampleOf(it), commands = gpu.commands();
      using op = await AttnCodes.create(gpu, it, 64), out = poisoned(gpu, "out", [1, 2, 64]);
      const packed = uploadPacked(gpu, sample.keys), io = { q: out, keys: packed, values: packed, ropeTable: out };
      const encode = (tokens: number) => op.encode(commands, { ...io, partialO: out, partialMd: out }, { tokens });
      assertEquals(encode(0), 0);
      assertThrows(
        () => encode(65),
        RangeError,
        "65 tokens from 0 on",
      );
    });
  }));

Deno.test("chooseAttnCodes() stays within the device", () => {
  const limits = { maxComputeInvocationsPerWorkgroup: 256, maxComputeWorkgroupStorageSize: 16384 };
  for (const [subgroups, isFallback] of [[true, false], [false, false], [true, true]] as const) {
    for (const headDim of [64, 80, 96, 128, 256]) {
      for (const group of [1, 2, 3, 4, 7, 8]) {
        for (const stages of [1, 5, 11, 21]) {
          for (const base of stages > 1 ? [undefined, 1] : [undefined]) {
            const side = { ...pairs(headDim, stages), base }, dims = { qHeads: 2 * group, kvHeads: 2 };
            const { keys, values } = chooseAttnCodes({ ...dims, keys: side, values: side }, {
              ...{ limits, f16: false, subgroups, isFallback },
            });
            assertEquals(keys.words, "words_half");
            const decode = "decode" in values ? [[values.decode, subgroups ? 10 : 12, 4] as const] : [];
            for (const [layout, bytes, groups] of [[keys, subgroups ? 4 : 32, 1] as const, ...decode]) {
              const { heads, lanes, tokenLanes } = layout, list = base === undefined ? 0 : 32 * lanes / tokenLanes;
              assertEquals(lanes <= 256 && lanes >= groups * tokenLanes && lanes * heads * bytes + list <= 16384, true);
              assertEquals(tokenLanes * 8 >= headDim && tokenLanes >= 8 && tokenLanes <= 32, true);
            }
            if ("mass" in values) {
              assertEquals(attnCodesMassBytes({ codec: side }, values.mass, subgroups) <= 16384, true);
              assertEquals(values.mass.heads, keys.heads);
            } else assertEquals(values.decode.heads, keys.heads);
          }
        }
      }
    }
  }
});

Deno.test("chooseAttnCodes() reads whole rows, and sums values as mass where all stages are of pairs", () => {
  const limits = { maxComputeInvocationsPerWorkgroup: 1024, maxComputeWorkgroupStorageSize: 49152 };
  const of = (codec: CodecShape) => {
    const dims = { qHeads: 32, kvHeads: 8, keys: codec, values: codec };
    const { keys, values } = chooseAttnCodes(dims, { limits, f16: true, subgroups: true, isFallback: false });
    return [keys.tokenLanes, Object.keys(values)[0]];
  };
  assertEquals(of(pairs(128, 11)), [16, "mass"]);
  assertEquals(of(pairs(128, 21)), [16, "mass"]);
  assertEquals(of(codec(128, "p", 8, 16)), [16, "decode"]);
  assertEquals(of(pairs(256, 21)), [32, "mass"]);
});

Deno.test("chooseAttnCodes() takes few lanes on a CPU, and many on a GPU", () => {
  const limits = { maxComputeInvocationsPerWorkgroup: 1024, maxComputeWorkgroupStorageSize: 49152 };
  const lanesOf = (headDim: number, isFallback: boolean) => {
    const side = codec(headDim, "p", 4), dims = { qHeads: 8, kvHeads: 4, keys: side, values: side };
    const { keys, values } = chooseAttnCodes(dims, { limits, f16: true, subgroups: true, isFallback });
    return [keys.lanes, "decode" in values && values.decode.lanes];
  };
  assertEquals([lanesOf(64, true), lanesOf(256, true), lanesOf(64, false)], [[64, 64], [64, 128], [512, 512]]);
});
