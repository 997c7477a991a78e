import { assert, assertMatch } from "@std/assert";
import { fromFileUrl } from "@std/path";
import { randomLlama, writeFolder } from "../_llama.ts";

Deno.test("memory is flat over a thousand tokens in many sessions", async () => {
  const folder = await Deno.makeTempDir();
  await writeFolder(
    folder,
    randomLlama({ hidden: 64, ffn: 64, qHeads: 2, kvHeads: 1, headDim: 32, context: 256 }, 9),
  );
  const script = fromFileUrl(new URL("_soak.ts", import.meta.url));
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", "--no-check", script, folder],
  }).output();
  const [out, err] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  assert(success, err);
  assertMatch(out!, /^1\d{3} tokens, /);
  await Deno.remove(folder, { recursive: true });
});
