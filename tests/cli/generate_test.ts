/** The `generate` command as a shell has it: what goes to which stream, and the exit status. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { fromFileUrl } from "@std/path";
import { main } from "../../src/cli/main.ts";
import { randomLlama, writeFolder } from "../_llama.ts";

const MOD = fromFileUrl(new URL("../../mod.ts", import.meta.url));

function start(args: string[]): Deno.ChildProcess {
  const options = {
    args: ["run", "-A", "--quiet", "--no-check", MOD, ...args],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  };
  // The software driver complains on standard error without it.
  const env = { XDG_RUNTIME_DIR: Deno.env.get("XDG_RUNTIME_DIR") ?? "/tmp" };
  return new Deno.Command(Deno.execPath(), { ...options, env } as Deno.CommandOptions).spawn();
}

async function run(args: string[], input = "") {
  const process = start(args), writer = process.stdin.getWriter();
  await writer.write(new TextEncoder().encode(input));
  await writer.close();
  return await finish(process);
}

async function finish(process: Deno.ChildProcess) {
  const { code, stdout, stderr } = await process.output(), decoder = new TextDecoder();
  return { code, out: decoder.decode(stdout), err: decoder.decode(stderr) };
}

/** Runs the command in this process, and what it printed. */
async function runHere(args: string[]) {
  const printed: Record<"log" | "error", string[]> = { log: [], error: [] }, { log, error } = console;
  console.log = (text) => printed.log.push(text);
  console.error = (text) => printed.error.push(text);
  try {
    return { code: await main(args), out: printed.log.join("\n"), err: printed.error.join("\n") };
  } finally {
    Object.assign(console, { log, error });
  }
}

/** A small model with room for a text that only an interrupt ends. */
async function withModel(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    const shape = { hidden: 32, ffn: 32, qHeads: 1, kvHeads: 1, headDim: 32, layers: 1, context: 200_000 };
    await writeFolder(folder, randomLlama({ ...shape, ropeTheta: 1e4 }, 3));
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("arguments that cannot be used end in status 2 and one sentence", async () => {
  const cases: [string[], string][] = [
    [["paint"], "Cannot run 'paint'"],
    [["constructor"], "Cannot run 'constructor'"],
    [["generate"], "Cannot generate without a PROMPT"],
    [["generate", "a", "b"], "Cannot continue several prompts"],
    [["generate", "--prompt-file", "/nowhere"], "Cannot read --prompt-file /nowhere"],
    [["generate", "--prompt-file", MOD, "a"], "Cannot use a prompt beside --prompt-file"],
    [["generate", "--paint", "a"], "Cannot use --paint with 'generate'"],
    [["generate", "a", "--seed"], "Cannot use --seed without a value"],
    [["generate", "a", "--stop", ""], "Cannot use --stop without a value"],
    [["generate", "a", "--seed", "x"], "Cannot use --seed x"],
    [["train", "--text", MOD, "--out", "c", "--key-codec", "p,x"], "Cannot use --key-codec p,x"],
    [["train", "--text", MOD, "--out", "c", "--tiers", "1:5-12"], "Cannot use --tiers 1:5-12"],
    [["generate", "a", "--seed", "0.5"], "Cannot use --seed 0.5"],
    [["generate", "a", "--seed", "4294967296"], "Cannot use --seed 4294967296"],
    [["generate", "a", "--max-tokens", "-1"], "Cannot use --max-tokens -1"],
    [["generate", "a", "--max-context", "0"], "Cannot use --max-context 0"],
    [["generate", "a", "--temperature", "Infinity"], "Cannot use --temperature Infinity"],
    [["generate", "a", "--top-p", "1.5"], "Cannot use --top-p 1.5"],
    [["generate", "a", "--kv", "3"], "Cannot use --kv 3"],
    [["generate", "a", "--kv", "16,16,16"], "Cannot use more than two numbers with --kv"],
    [["generate", "a", "--max-context", "16385"], "Cannot load with a context of 16385"],
  ];
  for (const [args, start] of cases) {
    const { code, out, err } = await runHere(args);
    assertEquals([code, out, err.slice(0, start.length)], [2, "", start]);
    assert(!err.includes("\n"), err);
  }
});

Deno.test("help goes to standard output, and to standard error where no command was given", async () => {
  for (const args of [["--help"], ["help"], ["-h"], ["generate", "--help"]]) {
    const { code, out, err } = await runHere(args);
    assertEquals([code, err], [0, ""]);
    assertMatch(out, /--json/);
  }
  const { code, out, err } = await runHere([]);
  assertEquals([code, out], [2, ""]);
  assertMatch(err, /usage: /);
});

Deno.test("failures end in their status with one sentence on standard error and nothing on standard output", async () => {
  const missing = await run(["generate", "--model", "/nowhere.gguf", "--json", "a"]);
  assertEquals(missing, { code: 1, out: "", err: "Cannot open /nowhere.gguf as there is no such file\n" });
  const unknown = await run(["generate", "--paint", "a"]);
  assertEquals([unknown.code, unknown.out], [2, ""]);
  assertMatch(unknown.err, /^Cannot use --paint with 'generate': .*\n$/);
  for (const source of ["/nowhere", MOD]) {
    const { code, out, err } = await runHere(["generate", "--model", source, "a"]);
    assertEquals([code, out], [1, ""]);
    assertMatch(err, /^Cannot open [^\n]*$/);
  }
});

Deno.test("--json prints one object, text its prompt and what follows, and neither an escape", async () => {
  await withModel(async (folder) => {
    const prompt = "One café,\ntwo", options = ["--model", folder, "--max-tokens", "12", "--max-context", "100"];
    const json = await run(["generate", ...options, "--json", "-"], prompt);
    assertEquals([json.code, json.err], [0, ""]);
    assertEquals(json.out.split("\n").length, 2);
    const found = JSON.parse(json.out), number = "number";
    const kinds = (value: unknown): unknown =>
      value && typeof value === "object" && !Array.isArray(value)
        ? Object.fromEntries(Object.entries(value).map(([key, part]) => [key, kinds(part)]))
        : Array.isArray(value)
        ? [...new Set(value.map(kinds))]
        : typeof value;
    assertEquals(kinds(found), {
      model: "string",
      prompt: "string",
      promptTokens: [number],
      tokens: [number],
      text: "string",
      stopReason: "string",
      kv: { bits: { k: number, v: number }, bytes: number, f16Bytes: number, codebookBytes: number },
      usage: { prefillTokensPerSecond: number, decodeTokensPerSecond: number, loadSeconds: number },
      device: "string",
    });
    const { prompt: given, promptTokens, tokens, stopReason, kv, text } = found;
    assertEquals([given, promptTokens.length, tokens.length, stopReason], [prompt, 15, 12, "length"]);
    assertEquals(kv, { bits: { k: 16, v: 16 }, bytes: 12800, f16Bytes: 12800, codebookBytes: 0 });

    await Deno.writeTextFile(`${folder}/prompt.txt`, prompt);
    const plain = await run(["generate", ...options, "--temperature", "0", "--prompt-file", `${folder}/prompt.txt`]);
    assertEquals([plain.code, plain.out], [0, `${prompt}${text}\n`]); // greedy is what --json does
    assertMatch(plain.err, /^\n12 tokens \(length\) at .* tokens\/s/);
    assert(![...json.out, ...plain.out, ...plain.err].some((char) => char === "\x1b" || char === "\r"));
  });
});

Deno.test("the bundled model is the default, and options reach the sampler", async () => {
  const { code, out } = await runHere(["generate", "--json", "--max-tokens", "9", "--stop", "man", "Once upon a time"]);
  const { model, text, stopReason, promptTokens } = JSON.parse(out);
  assertEquals([code, model, text, stopReason], [0, "fable-28m.Q8_0.gguf", " there was a ", "stop"]);
  assertEquals(promptTokens, [0, 1996, 322, 831, 260, 631]);
});

Deno.test("an interrupt ends the text cleanly and keeps what was made", async () => {
  await withModel(async (folder) => {
    const options = ["--model", folder, "--ignore-eos", "--max-tokens", "30000", "--max-context", "200000"];
    const process = start(["generate", ...options, "Once"]), reader = process.stdout.getReader();
    let out = "";
    const decoder = new TextDecoder(),
      more = async () => {
        const { value, done } = await reader.read();
        out += decoder.decode(value, { stream: true });
        return !done;
      };
    while (out.length < 200 && await more());
    process.kill("SIGINT");
    while (await more());
    const { code } = await process.status, err = await new Response(process.stderr).text();
    await process.stdin.close();
    assertEquals([code, out.slice(0, 4), out.at(-1)], [0, "Once", "\n"]);
    assertMatch(err, /^\n\d+ tokens \(abort\)/);

    for (let seconds = 3;; seconds *= 2) { // nothing tells when the text has begun
      const process = start(["generate", ...options, "--json", "Once"]);
      await process.stdin.close();
      const ended = finish(process);
      await new Promise((resolve) => setTimeout(resolve, 1e3 * seconds));
      process.kill("SIGINT");
      const { code, out, err } = await ended;
      if (seconds < 24 && (code !== 0 || JSON.parse(out).tokens.length === 0)) continue; // too early
      assertEquals([code, err], [0, ""]);
      const { stopReason, tokens, text } = JSON.parse(out);
      assertEquals(stopReason, "abort");
      assert(tokens.length > 0 && text.length > 0);
      break;
    }
  });
});
