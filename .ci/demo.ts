/** Streams text from the bundled model, as anyone would by the command itself. */
const prompt = Deno.args[0] ?? "Once upon a time there was a little";
const options = ["generate", "--max-tokens", "120", "--temperature", "0.7", "--seed", "7"];
console.error(`commvq generate ${options.slice(1).join(" ")} ${JSON.stringify(prompt)}\n`);
const { code } = await new Deno.Command(Deno.execPath(), {
  args: ["run", "--quiet", "--allow-read", "--no-prompt", "mod.ts", ...options, prompt],
  // Without it the software driver complains of a missing window system.
  env: { XDG_RUNTIME_DIR: Deno.env.get("XDG_RUNTIME_DIR") ?? "/tmp" },
}).spawn().status;
Deno.exit(code);
