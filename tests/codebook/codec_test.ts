import { assert, assertEquals, assertRejects } from "@std/assert";
import { dirname, fromFileUrl, join } from "@std/path";
import { type AttendOptions, Codec, type PackedVectors, type Sides } from "../../src/codebook/codec.ts";
import { readCodebook, writeCodebook } from "../../src/codebook/file.ts";
import { recordedDistortion } from "../../src/codebook/train_codebook.ts";
import { tableOf } from "../../src/codebook/words.ts";
import type { CodecShape, Stage } from "../../src/core/codec.ts";
import { UnsupportedModelError } from "../../src/core/errors.ts";
import { fromF16, fromF16Array, toF16, toF16Array } from "../../src/core/f16.ts";
import { attnCodesScoresRef } from "../../src/ref/attn_codes_scores.ts";
import { attnCodesValuesRef } from "../../src/ref/attn_codes_values.ts";
import { codeDecodeRef, type Rotation } from "../../src/ref/code_decode.ts";
import { exact, type Round } from "../../src/ref/round.ts";
import { assertAsAccurateAs, relativeError } from "../_assert.ts";
import { plainDevice } from "../_gpu.ts";
import { correlated } from "./_vectors.ts";

const K = 2, D = 32, Q = 4, T = 300, N = 3, dims = { kvHeads: K, headDim: D };
const STAGES: Sides<readonly Stage[]> = {
  keys: [{ kind: "pair", tied: true }, { kind: "sub", pairs: 8 }, { kind: "pair", tied: false }],
  values: [{ kind: "pair", tied: false }, { kind: "pair", tied: false }],
};
const vectors = { keys: correlated(T, K * D, 301), values: correlated(T, K * D, 302) };
const queries = correlated(N, Q * D, 303), root = dirname(dirname(dirname(fromFileUrl(import.meta.url))));

/** What codes stand for, from the arrays alone: `[K][T][D]`. */
function decoded(
  codec: Codec,
  side: keyof Sides<unknown>,
  { codes, scales }: PackedVectors,
  round: Round = exact,
  rotation?: Rotation,
): Float64Array {
  const shape = codec.codebook[side] as CodecShape, words = codec.codebook.layers[0]![side] as readonly Uint16Array[];
  const table = fromF16Array(new Uint16Array(tableOf(shape, K, words).buffer)), tokens = scales.length;
  const numbers = { words: Float64Array.from(table), scales: Float64Array.from(fromF16Array(scales)) };
  return codeDecodeRef({ codec: shape, kvHeads: K, codes, ...numbers }, { tokens, rotation }, round);
}

/** `[T][K][D]` from `[K][T][D]`. */
function tokensFirst(x: ArrayLike<number>): Float64Array {
  const tokens = x.length / K / D;
  return Float64Array.from(x, (_, i) => x[(Math.floor(i / D) % K * tokens + Math.floor(i / D / K)) * D + i % D]!);
}

/** Attention of one query `[Q][D]`, turned and scaled, to decoded keys and values `[K][T][D]`. */
function attention(q: Float32Array, keys: Float64Array, values: Float64Array, round: Round): Float64Array {
  const of = { qHeads: Q, kvHeads: K, headDim: D };
  const { o, md } = attnCodesValuesRef(attnCodesScoresRef(q, keys, of, round), values, of, round);
  return o.map((x, i) => round(x / md[2 * Math.floor(i / D) + 1]!));
}

/** Query `n` over the root of D, turned to a position as complex numbers. */
function queryAt(n: number, position: number, frequencies: Float64Array): Float32Array {
  return Float32Array.from({ length: Q * D }, (_, i) => {
    const at = n * Q * D + i, d = i % D, P = D / 2, angle = position * frequencies[d % P]!;
    const turned = d < P
      ? queries[at]! * Math.cos(angle) - queries[at + P]! * Math.sin(angle)
      : queries[at - P]! * Math.sin(angle) + queries[at]! * Math.cos(angle);
    return turned / Math.sqrt(D);
  });
}

Deno.test("Codec", async (t) => {
  const { device, bytes } = await plainDevice();
  const codec = await Codec.train(vectors, { ...dims, stages: STAGES, iterations: 6, device });
  const packed = await codec.encode(vectors);

  await t.step("trains to an error that its encoding reaches on the same vectors", async () => {
    const back = await codec.decode(packed), told = recordedDistortion(codec.codebook);
    for (const side of ["keys", "values"] as const) {
      const nmse = relativeError(back[side], vectors[side]) ** 2, greedy = told[side][0]!.at(-1)!;
      assert(nmse > 0.5 * greedy && nmse < 1.02 * greedy, `${side}: ${nmse}, ${greedy} in training`);
    }
  });

  await t.step("decodes codes to what words and scales add up to, as accurately as half precision", async () => {
    const back = await codec.decode(packed);
    for (const side of ["keys", "values"] as const) {
      const naive = decoded(codec, side, packed[side], Math.fround).map((x) => fromF16(toF16(x)));
      assertAsAccurateAs(back[side], tokensFirst(naive), tokensFirst(decoded(codec, side, packed[side])));
    }
  });

  await t.step("attends to codes as to the vectors they stand for, with RoPE and without", async () => {
    const frequencies = Float64Array.from({ length: D / 2 }, (_, d) => 100 ** (-d / (D / 2))), position = 777;
    for (const rope of [undefined, { frequencies, position }]) {
      const rotation = rope && { frequencies, position: (_: number, t: number) => t };
      const want = (round: Round): number[] => {
        const keys = decoded(codec, "keys", packed.keys, round, rotation);
        const values = decoded(codec, "values", packed.values, round);
        return Array.from({ length: N }, (_, n) => n).flatMap((n) => {
          const q = queryAt(n, rope ? position + n : 0, frequencies);
          return [...attention(q, keys, values, round)];
        });
      };
      const got = await codec.attend(queries, packed, { qHeads: Q, rope });
      assertAsAccurateAs(got, want(Math.fround), want(exact));
    }
  });

  await t.step("joins what was encoded in two calls", async () => {
    const cut = (from: number, to?: number) => ({
      keys: vectors.keys.subarray(from * K * D, to && to * K * D),
      values: vectors.values.subarray(from * K * D, to && to * K * D),
    });
    const head = await codec.encode(cut(0, 96)), tail = await codec.encode(cut(96));
    assertEquals([...head.keys.codes, ...tail.keys.codes], [...packed.keys.codes]);
    assertEquals([...head.values.scales, ...tail.values.scales], [...packed.values.scales]);
  });

  await t.step("opens again from a file, and in tiers", async () => {
    const path = await Deno.makeTempFile({ suffix: ".safetensors" });
    await writeCodebook(path, codec.codebook);
    using again = await Codec.open(await readCodebook(path), { device });
    assertEquals(await again.encode(vectors), packed);
    const tier = { base: 1, stages: 2, shares: [[0.5, 0.6]], thresholds: [[3, 3]] };
    using tiered = await Codec.open({ ...codec.codebook, tiers: { 1: { keys: tier, values: tier } } }, {
      bits: 1,
      device,
    });
    const some = await tiered.encode(vectors), back = await tiered.decode(some);
    const keys = Float64Array.from(back.keys), values = Float64Array.from(back.values), heads = headsFirst;
    const want = attention(queryAt(0, 0, new Float64Array(D / 2)), heads(keys), heads(values), exact);
    const got = await tiered.attend(queries.subarray(0, Q * D), some, { qHeads: Q });
    assert(some.keys.more!.length > 0 && relativeError(got, want) < 2e-3, `${relativeError(got, want)}`);
    const errors = recordedDistortion(codec.codebook).keys[0]!, nmse = relativeError(keys, vectors.keys) ** 2;
    assert(nmse < errors[0]! && nmse > errors[1]!, `${nmse}, where all stages leave ${errors}`);
    await Deno.remove(path);
  });

  await t.step("takes more than goes to the GPU at a time", async () => {
    const wide = { layers: 1, kvHeads: 8, headDim: 256, fingerprint: "" }, width = 8 * 256, tokens = 1030;
    const shape: CodecShape = { headDim: 256, stages: [{ kind: "sub", pairs: 64 }] }, { codebook } = codec;
    const rows = correlated(tokens, width, 304),
      words = [toF16Array(correlated(256, width, 305, 304).map((x) => x / 60))];
    const sides = { keys: shape, values: shape, layers: [{ keys: words, values: words }] };
    using open = await Codec.open({ ...codebook, ...sides, model: wide, beam: 1 }, { device });
    const both = (rows: Float32Array) => open.encode({ keys: rows, values: rows });
    const whole = await both(rows), tail = await both(rows.subarray(1024 * width));
    assertEquals(whole.keys.codes.subarray(-tail.keys.codes.length), tail.keys.codes);
    const { keys } = await open.decode(whole), { values } = await open.decode(tail);
    assertEquals(relativeError(keys.subarray(-values.length), values), 0);
    assert(values.every((x) => x !== 0));
  });

  await t.step("refuses, in one sentence, what does not fit", async () => {
    const { keys, values } = packed, few = vectors.keys.subarray(1), one = vectors.keys.subarray(K * D);
    const short = { keys, values: { ...values, scales: values.scales.subarray(1) } };
    const cut = { keys: { ...keys, codes: keys.codes.subarray(1) }, values }, rope = { frequencies: [1], position: 0 };
    const train = (values: Float32Array, headDim = D, stages = STAGES) => () =>
      Codec.train({ keys: vectors.keys, values }, { kvHeads: K, headDim, stages, device });
    const encode = (keys: Float32Array) => () => codec.encode({ keys, values: keys });
    const attend = (queries: Float32Array, to: Sides<PackedVectors>, options: AttendOptions) => () =>
      codec.attend(queries, to, { qHeads: Q, ...options });
    const odd: Sides<readonly Stage[]> = { keys: [{ kind: "sub", pairs: 5 }], values: [] };
    const refusals: [() => Promise<unknown>, typeof TypeError | typeof RangeError, string][] = [
      [train(few), TypeError, "train on values as they must be a Float32Array of whole tokens, K x D = 2 x 32"],
      [train(one), TypeError, "of the same tokens"],
      [train(vectors.values, 20), RangeError, "multiple of 8: it is 20"],
      [train(vectors.values, D, odd), RangeError, "groups of 5"],
      [() => Codec.train(vectors, { ...dims, bits: 3 as 2, device }), RangeError, "at 3 bits"],
      [() => Codec.train(vectors, { ...dims, beam: 9, device }), RangeError, "beam of 9"],
      [encode(new Float32Array(0)), TypeError, "encode keys"],
      [encode([...few] as never), TypeError, `${few.length} numbers in Array`],
      [() => codec.decode(short), TypeError, "decode values of 300 tokens"],
      [() => codec.decode(cut), TypeError, "words of codes"],
      [attend(queries, short, {}), TypeError, "attend to values"],
      [attend(queries, packed, { qHeads: 3 }), RangeError, "multiple of the 2"],
      [attend(queries.subarray(1), packed, {}), TypeError, "Q x D = 4 x 32"],
      [attend(queries, packed, { rope }), TypeError, "there must be 16"],
      [() => Codec.open(codec.codebook, { layer: 1, device }), RangeError, "layers 0 to 0"],
    ];
    for (const [call, type, message] of refusals) await assertRejects(call, type, message);
    const published = { ...codec.codebook, values: { features: K * D, bits: 1 } } as const;
    await assertRejects(() => Codec.open(published, { device }), UnsupportedModelError);
  });

  await t.step("gives back its memory and leaves the caller's device alive", async () => {
    codec[Symbol.dispose]();
    await assertRejects(() => codec.decode(packed), TypeError, "Cannot decode as the codec was disposed of");
    assertEquals(bytes(), 0);
    device.createBuffer({ size: 16, usage: GPUBufferUsage.STORAGE }).destroy();
    device.destroy();
  });
});

/** `[K][T][D]` from `[T][K][D]`. */
function headsFirst(x: Float64Array): Float64Array {
  const tokens = x.length / K / D;
  return x.map((_, i) => x[(Math.floor(i / D) % tokens * K + Math.floor(i / D / tokens)) * D + i % D]!);
}

Deno.test("the README's example of the quantizer runs as it is printed", async () => {
  const folder = await Deno.makeTempDir(), readme = await Deno.readTextFile(join(root, "README.md"));
  const example = readme.match(/```ts\n[^`]*Codec\.train[\s\S]*?```/)![0].slice(6, -3);
  const code = example.replace("jsr:@commvq/commvq", new URL("../../mod.ts", import.meta.url).href);
  await Deno.writeTextFile(join(folder, "example.ts"), code);
  const allowed = ["--no-prompt", `--allow-read=${folder}`, `--allow-write=${folder}`];
  const args = ["run", "--check", ...allowed, "--config", join(root, "deno.json"), "example.ts"];
  const output = await new Deno.Command(Deno.execPath(), { args, cwd: folder }).output();
  const [said, wrong] = [output.stdout, output.stderr].map((bytes) => new TextDecoder().decode(bytes).trim());
  assert(output.success, wrong);
  assertEquals(said, `${512 * 2 * 64} ${4 * 64} ${512 / 32 * 2 * 60 * 4}`);
  assertEquals((await readCodebook(join(folder, "words.safetensors"))).model.headDim, 64);
  await Deno.remove(folder, { recursive: true });
});
