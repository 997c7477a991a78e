import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { randomLlama, writeFolder } from "../_llama.ts";

async function run(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", new URL("../../mod.ts", import.meta.url).pathname, "eval", ...args],
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

Deno.test("eval refuses arguments that it cannot use, with status 2", async () => {
  for (
    const [args, message] of [
      [["--kv", "3"], "Cannot use --kv 3"],
      [["--regime", "x"], "chunked or deployment"],
      [["--tasks", "/nope"], "Cannot read --tasks /nope"],
      [["--tasks", "sums@300"], "the kinds are passkey, "],
      [["--window", "0"], "--window 0"],
    ] as const
  ) {
    const { code, stdout, stderr } = await run(...args);
    assertEquals([code, stdout], [2, ""]);
    assertStringIncludes(stderr, message);
  }
});
