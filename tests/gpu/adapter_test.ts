import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";

const MODULE = new URL("../../src/gpu/gpu.ts", import.meta.url).href;
const PREPARE = new URL("../../.ci/prepare.ts", import.meta.url).href;

/** Runs Deno where the environment hides drivers. */
async function run(args: string[], env: Record<string, string>): Promise<{ code: number; out: string; err: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args, env }).output();
  const [out, err] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  return { code, out: out!, err: err! };
}

Deno.test("create() refuses OpenGL at once, and says what to install", async () => {
  const code = `import { Gpu } from "${MODULE}";
    const isThere = await navigator.gpu.requestAdapter() !== null;
    const message = await Gpu.create().then(() => "opened", (error) => error.name + ": " + error.message);
    console.log(JSON.stringify({ isThere, message }));`;
  const { out } = await run(["eval", code], { DENO_WEBGPU_BACKEND: "gl" }), { isThere, message } = JSON.parse(out);
  const want = isThere ? "as WebGPU found OpenGL alone (" : "as no WebGPU adapter was found: ";
  assert(message.startsWith(`GpuUnavailableError: Cannot use the GPU ${want}`), message);
  assert(message.includes("install a Vulkan driver (Debian: `apt-get install mesa-vulkan-drivers`"), message);
});

Deno.test({
  name: "prepare installs the Vulkan driver where OpenGL is all there is, and says so",
  ignore: Deno.build.os !== "linux",
  fn: async () => {
    const bin = await Deno.makeTempDir(), log = join(bin, "log"), apt = join(bin, "apt-get");
    await Deno.writeTextFile(apt, `#!/bin/sh\necho "$@" >> ${log}\n`, { mode: 0o755 });
    const env = { PATH: bin, VK_ICD_FILENAMES: "/nonexistent", VK_DRIVER_FILES: "/nonexistent" };
    const { code, err } = await run(["run", "-A", PREPARE], env), [why, installing, still] = err.trim().split("\n");
    assertEquals(await Deno.readTextFile(log), "install -y --no-install-recommends mesa-vulkan-drivers\n");
    assert(/^Cannot use the GPU as (WebGPU found OpenGL alone|no WebGPU adapter)/.test(why!), err);
    assert(installing!.startsWith("Installing mesa-vulkan-drivers"), err);
    assertEquals([still!.startsWith(why!), code], [true, 1]); // this apt-get has installed nothing
    await Deno.remove(bin, { recursive: true });
  },
});
