import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { UsageError } from "../../src/cli/args.ts";
import { train } from "../../src/cli/train.ts";
import { toF16 } from "../../src/core/f16.ts";
import { Rng } from "../../src/core/rng.ts";
import { readCodebook, truncate } from "../../src/codebook/file.ts";
import { evaluate } from "../../src/eval/evaluate.ts";
import { load } from "../../src/llama/llama.ts";
import { calibrateTiers } from "../../src/llama/tiers.ts";
import { trainCodebooks } from "../../src/llama/train.ts";
import { SMALL } from "../llama/_small.ts";
import { randomLlama, writeFolder } from "../_llama.ts";

Deno.test("tiers give more bits to the tokens that calibration says, and those of a codebook lie between its ends", async () => {
  const folder = await Deno.makeTempDir();
  await writeFolder(folder, randomLlama(SMALL, 7));
  using llama = await load(folder, { maxContext: 256 });
  const text = Array.from({ length: 60 }, (_, i) => "abcdefghij".slice(i * i % 7)).join(""), texts = [text];
  const trained = await trainCodebooks(llama, { texts, tokens: 160, beam: 2 }), rng = new Rng(5);
  // Random words: those that so few tokens train know each of them by heart.
  const random = (stages: readonly Uint16Array[]) =>
    stages.map((words, s) => words.map(() => toF16(0.1 * 0.7 ** s * rng.normal())));
  const layers = trained.layers.map(({ keys, values, metrics }) => ({
    ...{ keys: random(keys), values: random(values as readonly Uint16Array[]), metrics },
  }));
  const whole = { ...trained, layers };
  const share = 0.25, tier = { base: 2, stages: 5, share }, tiers = { 2: { keys: tier, values: tier } };
  const codebook = await calibrateTiers(llama, whole, { texts, tokens: 160, tiers });
  const { base, stages, thresholds } = codebook.tiers![2]!.keys;
  assertEquals([base, stages, thresholds.length, thresholds[0]!.length], [2, 5, 2, 2]);
  const bits = { k: 2, v: 2 } as const, none = { keys: 2, values: 2 };
  const { methods } = await evaluate(llama, {
    ...{ texts, chunkTokens: 160, chunks: 1, window: 160 },
    codebooks: [
      { name: "tiers", codebook, bits },
      { name: "few", codebook: truncate(codebook, none) },
      { name: "all", codebook },
    ],
  });
  const [few, mixed, all] = ["few", "tiers", "all"].map((name) => methods.find((m) => m.name === name)!);
  // The calibration's tokens are those evaluated, all of them in the window, so that later layers see the same too.
  // Of each head and block two words of index, and three codes of 12 bits for each of the tokens that there is room for:
  // an eighth more than the share and 32, in whole blocks.
  assertAlmostEquals(mixed!.bitsCode, few!.bitsCode + 2 / 32 + 96 * 36 / (160 * 32));
  for (const side of ["keyNmse", "valueNmse"] as const) {
    const [a, b, c] = [few!, mixed!, all!].map((m) => m[side][0]!);
    assert(b! < 0.95 * a! && c! < 0.95 * b!, `${side} ${a}, ${b}, ${c}`);
  }
  await assertRejects(
    () =>
      calibrateTiers(llama, whole, {
        texts,
        tokens: 160,
        tiers: { 1: { keys: { ...tier, stages: 6 }, values: tier } },
      }),
    RangeError,
    "2 and 6 stages",
  );
  await Deno.remove(folder, { recursive: true });
});

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
    const text = Array.from({ length: 60 }, (_, i) => "abcdefghij".slice(i * i % 7)).join("");
    await Deno.writeTextFile(`${folder}/text.txt`, text);
    const command = (tier: string) =>
      train([
        ...["--model", folder, "--text", `${folder}/text.txt`, "--out", path, "--tokens", "160", "--bits", "1"],
        ...["--tiers", tier],
      ]);
    await quietly(() => command("1:1-3@0.2,1-2@0.3"));
    const of = (stages: number, share: number) => ({ base: 1, stages, share });
    const tiers = { 1: { keys: of(3, 0.2), values: of(2, 0.3) } };
    using llama = await load(folder);
    const own = await trainCodebooks(llama, { texts: [text], tokens: 160, bits: 1, tiers, path: out });
    assertEquals(own.keys.stages.length, 3);
    assertEquals((await readCodebook(path)).tiers, own.tiers);
    assertEquals((await readCodebook(out)).tiers, own.tiers);
    assertEquals((await readCodebook(out)).layers, (await readCodebook(path)).layers);
    // Interrupted when all layers are trained and their tiers are not: nothing of the layers is lost.
    const interrupt = new AbortController(), cut = `${folder}/cut.safetensors`;
    const again = { texts: [text], tokens: 160, bits: 1, tiers, path: cut } as const;
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
    for (const wrong of ["3:1-3@0.2,1-2@0.3", "1:3-1@0.2,1-2@0.3", "1:1-3@1.5,1-2@0.3", "1:1-3@0.2"]) {
      await assertRejects(() => command(wrong), UsageError, `Cannot use --tiers ${wrong}: it must be as`);
    }
    await assertRejects(
      () => trainCodebooks(llama, { texts: [text], tokens: 160, bits: 1, tiers, values: "encoder" }),
      TypeError,
      "has no stages",
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
