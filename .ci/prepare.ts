/**
 * Brings a bare machine to where the demo and the tests run: installs what is missing, says what and why, and does
 * nothing on a machine that has everything. Offline it works from what is there.
 */

async function hasAdapter(): Promise<string | undefined> {
  // In a process of its own: a Vulkan loader that found no driver keeps that answer for good.
  const code = `const a = await navigator.gpu?.requestAdapter(); if (a) console.log(a.info.description || "GPU")`;
  const { stdout } = await new Deno.Command(Deno.execPath(), { args: ["eval", code], stderr: "null" }).output();
  return new TextDecoder().decode(stdout).trim() || undefined;
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

if (!await hasAdapter()) {
  console.error(
    "No WebGPU adapter here: installing mesa-vulkan-drivers, which runs Vulkan on the CPU (slow, but correct).",
  );
  const packages = ["install", "-y", "--no-install-recommends", "mesa-vulkan-drivers"];
  if (!await run("apt-get", ...packages)) {
    await run("apt-get", "update");
    await run("apt-get", ...packages);
  }
  const found = await hasAdapter();
  if (!found) {
    console.error(
      "Cannot find a WebGPU adapter: install a Vulkan driver for your GPU, or Debian's mesa-vulkan-drivers as root, and run this again.",
    );
    Deno.exit(1);
  }
  console.error(`Found ${found}.`);
}
