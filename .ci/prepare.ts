/**
 * Brings a bare machine to where the demo and the tests run: installs what is missing, says what and why, and does
 * nothing on a machine that has everything. Offline it works from what is there.
 */

/** What the library says of this machine's GPU: its name, or why it cannot be used. */
async function gpu(): Promise<{ name?: string; why?: string }> {
  // In a process of its own: a Vulkan loader that found no driver keeps that answer for good.
  const code = `import { Gpu } from "${new URL("../src/gpu/gpu.ts", import.meta.url)}";
    const name = (gpu) => { const { description } = gpu; gpu[Symbol.dispose](); return description; };
    console.log(JSON.stringify(await Gpu.create().then((gpu) => ({ name: name(gpu) }), (e) => ({ why: e.message }))));`;
  const { stdout } = await new Deno.Command(Deno.execPath(), { args: ["eval", code], stderr: "null" }).output();
  try {
    return JSON.parse(new TextDecoder().decode(stdout));
  } catch {
    return { why: "Cannot use the GPU as its driver ends the process" };
  }
}

async function run(command: string, ...args: string[]): Promise<boolean> {
  try {
    const env = { DEBIAN_FRONTEND: "noninteractive" };
    const { success, stderr } = await new Deno.Command(command, { args, env, stdout: "null", stderr: "piped" })
      .output();
    if (!success) console.error(new TextDecoder().decode(stderr).trim());
    return success;
  } catch {
    return false; // not on this machine
  }
}

const { why } = await gpu();
if (why !== undefined) {
  console.error(`${why}.\nInstalling mesa-vulkan-drivers, which runs Vulkan on the CPU (slow, but correct).`);
  const packages = ["install", "-y", "--no-install-recommends", "mesa-vulkan-drivers"];
  if (!await run("apt-get", ...packages)) {
    await run("apt-get", "update");
    await run("apt-get", ...packages);
  }
  const found = await gpu();
  if (found.why !== undefined) {
    console.error(`${found.why}. Where that needs root, run this again as root.`);
    Deno.exit(1);
  }
  console.error(`Found ${found.name}.`);
}
