import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { UsageError } from "../../src/cli/args.ts";
import { train } from "../../src/cli/train.ts";
import { codeBits, type CodecShape } from "../../src/core/codec.ts";
import { toF16 } from "../../src/core/f16.ts";
import { Rng } from "../../src/core/rng.ts";
import { type Codebook, readCodebook, truncate } from "../../src/codebook/file.ts";
import { evaluate } from "../../src/eval/evaluate.ts";
import { type Llama, load } from "../../src/llama/llama.ts";
import { calibrateTiers, defaultTiers } from "../../src/training/tiers.ts";
import { trainCodebooks } from "../../src/training/train.ts";
import { SMALL } from "../llama/_small.ts";
import { randomLlama, writeFolder } from "../_llama.ts";

const TEXT = Array.from({ length: 60 }, (_, i) => "abcdefghij".slice(i * i % 7)).join("");

/** A model of which one head of layer 0 goes nowhere, with random words: those that so few tokens train know each by heart. */
async function withModel(body: (llama: Llama, whole: Codebook) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir(),
    model = randomLlama(SMALL, 7),
    { qHeads, headDim } = SMALL,
    width = qHeads * headDim;
  const { bytes } = model.named.get("blk.0.attn_output")!; // query heads 2 and 3 are those of head 1
  const o = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  for (let i = 0; i < o.length; i++) if (i % width >= width / 2) o[i] = 0;
  await writeFolder(folder, model);
  try {
    using llama = await load(folder, { maxContext: 256 });
    const trained = await trainCodebooks(llama, { texts: [TEXT], tokens: 160, beam: 2 }), rng = new Rng(5);
    const random = (stages: readonly Uint16Array[]) =>
      stages.map((words, s) => words.map(() => toF16(0.1 * 0.7 ** s * rng.normal())));
    const layers = trained.layers.map(({ keys, values, metrics }) => ({
      ...{ keys: random(keys), values: random(values as readonly Uint16Array[]), metrics },
    }));
    await body(llama, { ...trained, layers });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("tiers take the bits that they are for, and none where they are worth nothing", () =>
  withModel(async (llama, whole) => {
    const texts = [TEXT], tier = { base: 1, stages: 5 }, tiers = { 1: { keys: tier, values: tier } };
    const codebook = await calibrateTiers(llama, whole, { texts, tokens: 160, tiers });
    const { keys, values } = codebook.tiers![1]!;
    for (const { base, stages, shares, thresholds } of [keys, values]) {
      assertEquals([base, stages, shares.length, thresholds.length], [1, 5, 2, 2]);
      assert(shares[0]![1] === 0 && thresholds[0]![1]! > 1e9, "the head that goes nowhere has none");
    }
    assert([keys, values].some(({ shares }) => shares.flat().some((share) => share > 0.3 && share <= 1)));
    // 12 bits for all tokens, two words a block of index and half a scale; an eighth more than their share for further 48 and a gain of 4.
    const room = (share: number, tokens: number) =>
      Math.min(tokens, 32 * Math.ceil((Math.ceil(1.125 * share * tokens) + 32) / 32));
    const rooms = [keys, values].flatMap(({ shares }) => shares.flat().map((share) => room(share, 4096) / 4096));
    const bits = (12 + 2 + 8 + 52 * rooms.reduce((a, b) => a + b) / rooms.length) / 32;
    assert(bits > 0.97 && bits <= 1, `${bits} bits`);

    const { methods } = await evaluate(llama, {
      ...{ texts, chunkTokens: 160, chunks: 1, window: 160 },
      codebooks: [
        { name: "tiers", codebook, bits: { k: 1, v: 1 } },
        { name: "few", codebook: truncate(codebook, { keys: 1, values: 1 }) },
        { name: "all", codebook },
      ],
    });
    const [few, mixed, all] = ["few", "tiers", "all"].map((name) => methods.find((m) => m.name === name)!);
    // The calibration's tokens are those evaluated, all of them in the window, so that later layers see the same too.
    const words = [keys, values].flatMap(({ shares }) =>
      shares.map((heads) => heads.reduce((sum, share) => sum + 52 * room(share, 160) / 32, 3))
    );
    const more = words.reduce((a, b) => a + b) / words.length * 32 / (160 * 64);
    assertAlmostEquals(mixed!.bitsCode, few!.bitsCode + 2 / 32 + more);
    for (const side of ["keyNmse", "valueNmse"] as const) {
      const [a, b, c] = [few!, mixed!, all!].map((m) => m[side][0]!);
      assert(b! < a! && c! < 0.95 * b!, `${side} ${a}, ${b}, ${c}`);
    }
  }));

Deno.test("tiers that there cannot be are refused", () =>
  withModel(async (llama, whole) => {
    const tier = { base: 2, stages: 5 },
      few = (keys: typeof tier, bits: 1 | 2 = 2) =>
        calibrateTiers(llama, whole, { texts: [TEXT], tokens: 160, tiers: { [bits]: { keys, values: tier } } });
    await assertRejects(() => few({ ...tier, stages: 6 }), RangeError, "2 and 6 stages");
    await assertRejects(() => few({ ...tier, base: 5 }), RangeError, "5 and 5 stages");
    await assertRejects(() => few(tier, 1), RangeError, "the stages of all tokens take 1.07");
    let steps = 0; // all that costs nothing to know is said before anything is read
    const onProgress = () => void steps++, tiers = { 1: { keys: tier, values: tier } };
    await assertRejects(
      () => trainCodebooks(llama, { texts: [TEXT], tokens: 160, tiers, onProgress }),
      RangeError,
      "the stages of all tokens take 1.07",
    );
    assertEquals(steps, 0);
  }));

/** Keeps what a command prints to itself. */
async function quietly(body: () => Promise<void>): Promise<void> {
  const { log } = console;
  console.log = () => {};
  try {
    await body();
  } finally {
    console.log = log;
  }
}

Deno.test("the command trains with tiers, as the library does, and says what it cannot read of them", async () => {
  const folder = await Deno.makeTempDir(), path = `${folder}/words.safetensors`, out = `${folder}/own.safetensors`;
  try {
    await writeFolder(folder, randomLlama(SMALL, 7));
    const text = TEXT;
    await Deno.writeTextFile(`${folder}/text.txt`, text);
    const command = (tier?: string) =>
      train([
        ...["--model", folder, "--text", `${folder}/text.txt`, "--out", path, "--tokens", "160", "--bits", "2"],
        ...tier ? ["--tiers", tier] : [],
      ]);
    await quietly(() => command("2:1-3,1-2"));
    const of = (stages: number) => ({ base: 1, stages }), tiers = { 2: { keys: of(3), values: of(2) } };
    using llama = await load(folder);
    const own = await trainCodebooks(llama, { texts: [text], tokens: 160, bits: 2, tiers, path: out });
    assertEquals(own.keys.stages.length, 3);
    assertEquals((await readCodebook(path)).tiers, own.tiers);
    assertEquals((await readCodebook(out)).tiers, own.tiers);
    assertEquals((await readCodebook(out)).layers, (await readCodebook(path)).layers);
    await quietly(() => command()); // without a word about stages
    const { stages, tiers: usual } = defaultTiers(SMALL.headDim), found = await readCodebook(path);
    assertEquals([found.keys.stages, (found.values as CodecShape).stages], [stages.keys, stages.values]);
    for (const bits of [1, 2] as const) {
      for (const side of ["keys", "values"] as const) {
        const { base, stages } = found.tiers![bits]![side];
        assertEquals({ base, stages }, usual[bits][side]);
      }
    }
    // Interrupted when all layers are trained and their tiers are not: nothing of the layers is lost.
    const interrupt = new AbortController(), cut = `${folder}/cut.safetensors`;
    const again = { texts: [text], tokens: 160, bits: 2, tiers, path: cut } as const;
    await assertRejects(() =>
      trainCodebooks(llama, {
        ...again,
        signal: interrupt.signal,
        onProgress: (p) =>
          p.phase === "train" && p.layer === 1 && p.side === "values" && p.stage === p.stages - 1 && interrupt.abort(),
      })
    );
    assertEquals((await readCodebook(`${cut}.partial`)).layers, own.layers);
    await assertRejects(() => Deno.stat(cut), Deno.errors.NotFound);
    let steps = 0;
    const onProgress = ({ phase }: { phase: string }) => void (steps += Number(phase === "train"));
    assertEquals((await trainCodebooks(llama, { ...again, resume: true, onProgress })).tiers, own.tiers);
    assertEquals(steps, 0);
    assertEquals(await readCodebook(cut), await readCodebook(out));
    for (const wrong of ["3:1-3,1-2", "1:3-1,1-2", "1:1-3@0.2,1-2@0.3", "1:1-3"]) {
      await assertRejects(() => command(wrong), UsageError, `Cannot use --tiers ${wrong}: it must be as`);
    }
    await assertRejects(
      () => trainCodebooks(llama, { texts: [text], tokens: 160, bits: 2, tiers, values: "encoder" }),
      TypeError,
      "has no stages",
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("defaultTiers() fit every head", () => {
  for (let headDim = 32; headDim <= 256; headDim += 8) {
    const { stages, tiers } = defaultTiers(headDim);
    for (const bits of [1, 2] as const) {
      const first = (["keys", "values"] as const).map((side) => {
        const { base, stages: most } = tiers[bits][side];
        assert(base < most && most <= stages[side].length);
        return codeBits({ headDim, stages: stages[side].slice(0, base) });
      });
      assert((first[0]! + first[1]!) / 2 / headDim < bits - 0.05, `${headDim}, ${bits} bits: ${first}`);
    }
  }
});
