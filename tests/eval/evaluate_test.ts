/** `evaluate` on a small random model, against the f64 pass and against what must hold. */
import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { type Codebook, evaluate, type EvaluateOptions, load, reportFiles, type Task } from "../../mod.ts";
import { type ValueArrays, valueArrayShapes, ValueEncoder } from "../../src/codebook/value_encoder.ts";
import { UnsupportedModelError } from "../../src/core/errors.ts";
import { pairStages, stageRows } from "../../src/core/codec.ts";
import { toF16 } from "../../src/core/f16.ts";
import { Rng } from "../../src/core/rng.ts";
import { BASELINES } from "../../src/eval/baselines.ts";
import { placeLevels } from "../../src/eval/kvquant.ts";
import { elements } from "../../src/gpu/tensor.ts";
import { inside } from "../../src/llama/llama.ts";
import { cacheRoundRef } from "../../src/ref/cache_round.ts";
import { randomLlama, writeFolder } from "../_llama.ts";
import { logProbabilities, mixedRef } from "./_mixed.ts";

const SHAPE = { hidden: 96, ffn: 80, qHeads: 4, kvHeads: 2, headDim: 64, context: 128 };
const model = randomLlama(SHAPE, 3), folder = await Deno.makeTempDir();
await writeFolder(folder, model);
const rng = new Rng(4),
  letters = (count: number) => Array.from({ length: count }, () => "abcdefghijklmnop"[rng.below(16)]).join("");
const texts = [letters(150), letters(70), letters(40)];
const NEAR = { window: 9, sinks: 2 };

const same = { name: "same", bitsCode: 16, keys: () => {}, values: () => {} };
const find = <T extends { name: string }>(all: readonly T[], name: string): T => all.find((m) => m.name === name)!;
const mean = (x: readonly number[]): number => x.reduce((a, b) => a + b, 0) / x.length;

/** A codebook of random words, as good as that is. */
function randomCodebook(fingerprint: string) {
  const keys = pairStages(64, 2, true), values = pairStages(64, 2, false), { kvHeads } = SHAPE;
  const words = (tied: boolean) => {
    const out = new Uint16Array(kvHeads * 128 * 64), half = 64 * 64;
    for (let k = 0; k < kvHeads; k++) {
      for (let i = 0; i < half; i += 2) {
        const [re, im] = [rng.normal() / 20, rng.normal() / 20];
        out.set([toF16(re), toF16(im)], 2 * k * half + i);
        const [vRe, vIm] = tied ? [-im, re] : [rng.normal() / 20, rng.normal() / 20];
        out.set([toF16(vRe), toF16(vIm)], (2 * k + 1) * half + i);
      }
    }
    assertEquals(stageRows(keys.stages[0]!), 128);
    return out;
  };
  const layer = () => ({ keys: [words(true), words(true)], values: [words(false), words(false)] });
  const shape = { layers: 2, kvHeads, headDim: 64, fingerprint };
  return { model: shape, keys, values, precision: "f16" as const, layers: [layer(), layer()], record: {} };
}

/** Keys in random words and values through untrained networks of 1 bit. */
function untrainedEncoder(fingerprint: string): Codebook {
  const { layers, ...rest } = randomCodebook(fingerprint), values = { features: 128, bits: 1 } as const;
  const shapes = Object.entries(valueArrayShapes(values));
  const arrays = () =>
    Object.fromEntries(shapes.map(([name, shape]) => {
      const size = name.startsWith("linear") ? 0.1 : 1, center = name === "scale" ? 4 : 0; // scales are above 0
      return [name, {
        shape,
        data: Float32Array.from({ length: elements(shape) }, () => center + size * rng.normal()),
      }];
    })) as ValueArrays;
  return { ...rest, values, layers: layers.map(({ keys }) => ({ keys, values: arrays() })) };
}

Deno.test("evaluate()", async (t) => {
  using llama = await load(folder, { kv: { bits: 16 } });
  const run = (options: EvaluateOptions) => evaluate(llama, { ...NEAR, texts, chunkTokens: 60, ...options });
  const encode = (text: string) => llama.tokenizer.encode(text);

  await t.step("gives the losses and divergences of the f64 pass, chunk by chunk", async () => {
    const { methods, documents, tokensScored } = await run({ baselines: ["turbo2"], quantizers: [same], chunks: 4 });
    const ids = texts.map(encode),
      chunks = [ids[0]!.slice(0, 60), ids[1]!.slice(0, 60), ids[2]!, ids[0]!.slice(60, 120)];
    assertEquals([documents, tokensScored], [4, chunks.reduce((sum, c) => sum + c.length - 1, 0)]);
    const turbo = BASELINES.find((b) => b.name === "turbo2")!;
    const passes = {
      fp16: undefined,
      turbo2: (x: Float64Array, side: "keys" | "values", tokens: number) =>
        cacheRoundRef(x, { tokens, headDim: 64 }, turbo[side]),
      "0bit": undefined,
    };
    for (const [name, left] of Object.entries(passes)) {
      const nll: number[] = [], kl: number[] = [];
      for (const chunk of chunks) {
        const exact = mixedRef(model, chunk, { ...NEAR, from: Infinity }).map(logProbabilities);
        const own = name === "fp16" ? exact : mixedRef(model, chunk, { ...NEAR, from: 0 }, left).map(logProbabilities);
        chunk.slice(1).forEach((id, r) => {
          nll.push(-own[r]![id]!);
          kl.push(exact[r]!.reduce((sum, p, i) => sum + Math.exp(p) * (p - own[r]![i]!), 0));
        });
      }
      const figures = find(methods, name);
      assertAlmostEquals(Math.log(figures.perplexity), mean(nll), 2e-3, name);
      assertAlmostEquals(figures.kl.mean, mean(kl), 0.02 * mean(kl) + 1e-6, name);
    }
    const [exact, copy, anchor] = ["fp16", "same", "0bit"].map((name) => find(methods, name));
    assertEquals([exact!.kl.mean, exact!.top1, exact!.contextKept, anchor!.contextKept], [0, 1, 1, 0]);
    assert(
      copy!.kl.mean < 1e-6 && Math.abs(copy!.overBase.nll.mean) < 1e-5,
      "the codec's path adds an error of its own",
    );
    assertEquals(exact!.keyNmse, [0, 0]);
    assertEquals(anchor!.valueNmse, [1, 1]);
    assert(find(methods, "turbo2").outputError.every((e) => e > 0.01 && e < 1));
  });
  await t.step("reads the first half exactly in deployment", async () => {
    const options = { quantizers: [same], texts: [texts[0]!] };
    const { methods, tokensScored } = await run({ ...options, regime: "deployment" });
    assertEquals(tokensScored, 29);
    const ids = encode(texts[0]!).slice(0, 60), ref = mixedRef(model, ids, { ...NEAR, from: 30 }).map(logProbabilities);
    const nll = ids.slice(31).map((id, r) => -ref[30 + r]![id]!);
    assertAlmostEquals(Math.log(find(methods, "0bit").perplexity), mean(nll), 2e-3);
    assert(find(methods, "same").kl.mean < 1e-6);
  });
  await t.step("counts bits three ways", async () => {
    const { methods } = await run({
      baselines: ["q8_0"],
      codebooks: [{ name: "book", codebook: randomCodebook(llama.fingerprint) }],
      texts: [texts[0]!],
    });
    const q8 = find(methods, "q8_0"), book = find(methods, "book"), near = NEAR.window + NEAR.sinks;
    assertAlmostEquals(q8.bitsEffective, (8.5 * (60 - near) + 16 * near) / 60, 1e-9);
    assertEquals(q8.bitsAll, q8.bitsEffective);
    assertEquals(book.bitsCode, 2 * 12 / 64 + 16 / 128);
    assertAlmostEquals(book.bitsAll - book.bitsEffective, 8 * book.sharedBytes / (60 * 2 * 2 * 2 * 64), 1e-9);
    assertEquals(book.sharedBytes, 2 * 2 * 2 * 2 * 128 * 64 * 2, "words of layers, sides, heads and stages alone");
    assert(book.keyNmse.every((e) => e > 0.3 && e < 1.1), `${book.keyNmse}`);
  });
  await t.step("codes values by the published network, all heads of a token together", async () => {
    const codebook = untrainedEncoder(llama.fingerprint), seen: Float32Array[] = [];
    const values = (x: Float32Array, { tokens }: { tokens: number }, layer: number) => {
      const rows = new Float32Array(x.length); // [K][T][D] to [T][K D]
      x.forEach((v, i) => rows[Math.floor(i / 64) % tokens * 128 + Math.floor(i / 64 / tokens) * 64 + i % 64] = v);
      seen[layer] ??= rows;
    };
    const { methods } = await run({
      quantizers: [{ ...same, values }],
      codebooks: [{ name: "commvq1", codebook }],
      texts: [texts[0]!],
    });
    const own = find(methods, "commvq1"), { gpu } = inside(llama);
    using encoder = await ValueEncoder.fromArrays(gpu, codebook.layers.map((layer) => layer.values as ValueArrays));
    for (const [layer, rows] of seen.entries()) {
      using tensor = gpu.upload("values", "f32", [60, 128], rows);
      const wanted = await encoder.distortion(layer, tensor);
      assertAlmostEquals(own.valueNmse[layer]!, wanted, 1e-3 * wanted);
    }
    assertEquals(own.bitsCode, (2 * 12 / 64 + 1 + 2 * 16 / 128) / 2);
    assert(/by the published encoder/.test(own.about), own.about);
    await assertRejects(
      () => run({ codebooks: [{ name: "two", codebook, bits: { k: 2, v: 2 } }] }),
      UnsupportedModelError,
      "Cannot code keys at 2 bits",
    );
  });
  await t.step("calibrates kvquant2, and puts noise of its size in a codec's place", async () => {
    const { methods } = await run({
      baselines: ["kvquant2", "turbo1", "noise:turbo1"],
      calibration: texts,
      texts: [texts[0]!],
    });
    const [kvquant, turbo, noise, anchor] = ["kvquant2", "turbo1", "noise:turbo1", "0bit"].map((n) => find(methods, n));
    assert(
      kvquant!.keyNmse.concat(kvquant!.valueNmse).every((e) => e > 0.03 && e < 0.3),
      `${kvquant!.keyNmse} ${kvquant!.valueNmse}`,
    );
    assert(kvquant!.kl.mean < anchor!.kl.mean);
    noise!.keyNmse.forEach((e, l) => assert(Math.abs(e / turbo!.keyNmse[l]! - 1) < 0.15));
    assertEquals(noise!.tasks, {});
    await assertRejects(() => run({ baselines: ["kvquant2"] }), RangeError, "calibration texts");
  });
  await t.step("scores answers by the likeliest tokens, and marks what proves nothing", async () => {
    const tasks: Task[] = [];
    for (let i = 0; tasks.length < 6; i++) { // what the model says next is the answer, or is not
      const prompt = letters(50),
        ids = encode(prompt),
        last = mixedRef(model, ids, { ...NEAR, from: Infinity }).at(-1)!;
      const said = llama.tokenizer.decode([last.indexOf(Math.max(...last))]);
      if (!/^[!-~]$/.test(said)) continue;
      const right = tasks.length % 2 === 0, text = prompt + (right ? said : said === "z" ? "y" : "z");
      tasks.push({ task: right ? "said" : "unsaid", chars: 50, text, spans: [[50, 51]] });
      assert(i < 1000);
    }
    const { methods, cells } = await run({ texts: [], tasks, quantizers: [same] });
    for (const name of ["fp16", "same"]) assertEquals(find(methods, name).tasks, { "said@50": 1, "unsaid@50": 0 });
    const { right: anchor, ...lost } = find(methods, "0bit").answers["said@50"]!;
    assertEquals(lost, { all: 3, lost: 3 - anchor, gained: 0 });
    assertEquals(cells["said@50"]!.tokens, 51 + encode("").length);
    assertEquals(cells["said@50"]!.tells, anchor < 1.5);
    assertEquals(cells["unsaid@50"]!.tells, false);
    const wanted = tasks.filter((_, i) => i % 2 === 0).filter(({ text }) => {
      const last = mixedRef(model, encode(text.slice(0, 50)), { ...NEAR, from: encode(text.slice(0, 50)).length - 1 })
        .at(-1)!;
      return llama.tokenizer.decode([last.indexOf(Math.max(...last))]) === text[50];
    }).length;
    assertEquals(anchor, wanted);
  });
  await t.step("compares with a base, and reports", async () => {
    const evaluation = await run({ baselines: ["turbo2", "turbo1"], base: "turbo2", texts });
    const { nll, kl } = find(evaluation.methods, "turbo1").overBase;
    assertEquals(find(evaluation.methods, "turbo2").overBase.nll.mean, 0);
    assert(nll.low <= nll.mean && nll.mean <= nll.high && kl.mean > 0, JSON.stringify({ nll, kl }));
    const files = reportFiles(evaluation);
    assertEquals(Object.keys(files).sort(), [
      "evaluation.json",
      "evaluation.md",
      "index.html",
      "kl.svg",
      "perplexity.svg",
      "position.svg",
    ]);
    for (const [name, text] of Object.entries(files)) {
      assert(!/NaN|undefined/.test(text), `${name} shows what is no number`);
    }
    const [method] = JSON.parse(files["evaluation.json"]!).methods;
    for (
      const key of [
        "name",
        "bitsCode",
        "bitsEffective",
        "bitsAll",
        "perplexity",
        "kl",
        "top1",
        "tasks",
        "keyNmse",
        "valueNmse",
      ]
    ) {
      assert(key in method, key);
    }
  });
  await t.step("tells of progress, stops when aborted, and refuses what it cannot do", async () => {
    let last = 0, all = 1;
    await run({
      texts: [texts[0]!],
      onProgress: ({ done, total }) => {
        assert(done > last && done <= total);
        [last, all] = [done, total];
      },
    });
    assertEquals(last, all);
    const abort = new AbortController(), onProgress = () => abort.abort();
    await assertRejects(() => run({ onProgress, signal: abort.signal }), DOMException, "abort");
    await assertRejects(() => run({ baselines: ["q3"] }), RangeError, "the baselines are");
    await assertRejects(() => run({ base: "q8_0" }), RangeError, "base 'q8_0'");
    await assertRejects(() => run({ quantizers: [same, same] }), RangeError, "'same' is there twice");
    await assertRejects(() => run({ window: 0 }), RangeError, "window of 0");
    await assertRejects(() => run({ chunkTokens: 140 }), RangeError, "context is 128");
    const other = { ...randomCodebook("another"), record: {} };
    await assertRejects(
      () => run({ codebooks: [{ name: "other", codebook: other }] }),
      Error,
      "Cannot use other with this model",
    );
  });
});

Deno.test("placeLevels() finds four lumps and keeps mean and deviation", () => {
  const histogram = new Float64Array(4096), lumps = [-0.7, -0.1, 0.3, 0.8];
  for (const lump of lumps) for (let i = -20; i <= 20; i++) histogram[Math.floor((lump + 1) * 2048) + i]! += 1;
  const { centres, levels } = placeLevels(histogram);
  centres.forEach((c, i) => assertAlmostEquals(c, lumps[i]!, 1e-3));
  assertAlmostEquals(mean(levels), mean(lumps), 1e-3);
});
