/** Streams text from the bundled model, as anyone would by the command itself. */
import { runDeno } from "./run_deno.ts";

const prompt = Deno.args[0] ?? "Once upon a time there was a little";
const options = ["generate", "--max-tokens", "120", "--temperature", "0.7", "--seed", "7"];
console.error(`commvq generate ${options.slice(1).join(" ")} ${JSON.stringify(prompt)}\n`);
await runDeno(["run", "--quiet", "--allow-read", "--no-prompt", "mod.ts", ...options, prompt]);
