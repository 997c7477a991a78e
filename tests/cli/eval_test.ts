import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { load, writeCodebook } from "../../mod.ts";
import { type ValueArrays, valueArrayShapes } from "../../src/codebook/value_encoder.ts";
import { pairStages } from "../../src/core/codec.ts";
import { toF16 } from "../../src/core/f16.ts";
import { elements } from "../../src/gpu/tensor.ts";
import { randomLlama, writeFolder } from "../_llama.ts";

async function run(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", "--no-check", new URL("../../mod.ts", import.meta.url).pathname, "eval", ...args],
    env: { XDG_RUNTIME_DIR: Deno.env.get("XDG_RUNTIME_DIR") ?? "/tmp" },
  });
  const { code, stdout, stderr } = await command.output(),
    decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, stdout: decode(stdout), stderr: decode(stderr) };
}

Deno.test("eval prints one JSON object of the documented shape, and writes a report", async () => {
  const folder = await Deno.makeTempDir(), model = join(folder, "model"), out = join(folder, "out");
  await writeFolder(model, randomLlama({ hidden: 64, ffn: 80, qHeads: 2, kvHeads: 1, headDim: 64, context: 128 }, 3));
  const tasks = [{ task: "said", chars: 20, text: "abcdefghijkabcdefghijk", spans: [[11, 14], [16, 18]] }];
  await Deno.writeTextFile(join(folder, "text.txt"), "abcdefghijklmnop".repeat(20));
  await Deno.writeTextFile(join(folder, "tasks.jsonl"), tasks.map((task) => JSON.stringify(task)).join("\n"));
  const files = ["--text", join(folder, "text.txt"), "--tasks", join(folder, "tasks.jsonl")];
  const { code, stdout, stderr } = await run(
    "--model",
    model,
    ...files,
    "--baselines",
    "turbo2",
    "--chunk",
    "60",
    "--chunks",
    "2",
    "--window",
    "8",
    "--json",
    "--out",
    out,
  );
  assertEquals([code, stderr], [0, ""]);
  const result = JSON.parse(stdout);
  assertEquals([result.tokensScored, result.regime, result.methods.map((m: { name: string }) => m.name)], [
    118,
    "chunked",
    ["fp16", "turbo2", "0bit"],
  ]);
  const [, { kl, tasks: cells, keyNmse, valueNmse, ...rest }] = result.methods;
  assertEquals([keyNmse.length, valueNmse.length, Object.keys(cells)], [2, 2, ["said@20"]]);
  for (const key of ["bitsCode", "bitsEffective", "bitsAll", "perplexity", "top1"]) assert(rest[key] > 0, key);
  assert(kl.mean > 0 && kl.p99 >= kl.mean);
  const written = [...Deno.readDirSync(out)].map(({ name }) => name).sort();
  const charts = ["kl.svg", "perplexity.svg", "position.svg", "tasks.svg"];
  assertEquals(written, ["evaluation.json", "evaluation.md", "index.html", ...charts]);
});

Deno.test("eval measures a published encoder at its own bits, on fresh tasks of the number asked for", async () => {
  const folder = await Deno.makeTempDir(), model = join(folder, "model"), path = join(folder, "published.safetensors");
  await writeFolder(model, randomLlama({ hidden: 64, ffn: 80, qHeads: 2, kvHeads: 1, headDim: 64, context: 2048 }, 3));
  using llama = await load(model, { kv: { bits: 16 } });
  const dims = { features: 64, bits: 1 } as const, words = new Uint16Array(128 * 64).fill(toF16(0.01));
  const values = Object.fromEntries(
    Object.entries(valueArrayShapes(dims)).map(([name, shape]) => {
      const data = new Float32Array(elements(shape)).fill(name === "scale" ? 1 : 0.01);
      return [name, { shape, data }];
    }),
  ) as ValueArrays;
  await writeCodebook(path, {
    model: { layers: 2, kvHeads: 1, headDim: 64, fingerprint: llama.fingerprint },
    ...{ keys: pairStages(64, 5, false), values: dims, precision: "f16", record: {} },
    layers: [0, 1].map(() => ({ keys: Array(5).fill(words), values })),
  });
  const tasks = ["--tasks", "passkey@500,needles@700", "--tasks", "copy_words@100", "--count", "3", "--depths", "0,1"];
  const options = ["--codebook", path, "--baselines", "none", "--json"];
  const { code, stdout, stderr } = await run("--model", model, ...tasks, ...options);
  assertEquals([code, stderr], [0, ""]);
  const { methods, cells } = JSON.parse(stdout);
  assertEquals(methods.map((m: { name: string }) => m.name), ["fp16", "commvq1", "0bit"]);
  const answers = Object.entries(cells as Record<string, { answers: number }>).map((
    [cell, { answers }],
  ) => [cell, answers]);
  assertEquals(answers, [["passkey@500", 3], ["needles@700", 12], ["copy_words@100", 3]]);
  const depths = methods[1].depths.filter((d: { cell: string }) => d.cell === "passkey@500");
  assertEquals(depths.map((d: { all: number }) => d.all), [2, 1]);
});

Deno.test("eval refuses arguments that it cannot use, with status 2", async () => {
  for (
    const [args, message] of [
      [["--kv", "3"], "Cannot use --kv 3"],
      [["--regime", "x"], "chunked or deployment"],
      [["--tasks", "/nope"], "Cannot read --tasks /nope"],
      [["--tasks", "sums@300"], "the kinds are passkey, "],
      [["--tasks", "passkey@300", "--count", "0"], "--count 0"],
      [["--tasks", "passkey@300", "--depths", "0,1.5"], "--depths 0,1.5: they must be numbers from 0 to 1"],
      [["--window", "0"], "--window 0"],
      [["--out", "/proc/nope"], "Cannot write --out to /proc/nope"],
    ] as const
  ) {
    const { code, stdout, stderr } = await run(...args);
    assertEquals([code, stdout], [2, ""]);
    assertStringIncludes(stderr, message);
  }
});
