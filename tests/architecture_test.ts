import { assertEquals } from "@std/assert";
import { dirname, fromFileUrl, join, relative } from "@std/path";

const root = dirname(dirname(fromFileUrl(import.meta.url)));

/** What each floor of `src/` may import: itself, and floors below. Nothing imports `tests` or `bench`. */
const MAY_IMPORT: Record<string, readonly string[]> = {
  core: [],
  ref: ["core"],
  files: ["core"],
  text: ["core"],
  gpu: ["core"],
  kernels: ["gpu", "core"],
  codebook: ["kernels", "gpu", "files", "core"],
  attention: ["kernels", "gpu", "files", "core"],
  llama: ["attention", "codebook", "kernels", "gpu", "files", "text", "core"],
  eval: ["llama", "attention", "codebook", "kernels", "gpu", "files", "text", "core"],
  training: ["eval", "llama", "attention", "codebook", "kernels", "gpu", "files", "text", "core"],
  cli: [], // the public surface only: mod.ts
};

/** Imports of a module: [file, imported file], both relative to the root. */
async function edges(): Promise<[string, string][]> {
  const out: [string, string][] = [];
  const visit = async (folder: string): Promise<void> => {
    for await (const { name, isDirectory } of Deno.readDir(folder)) {
      const path = join(folder, name);
      if (isDirectory) await visit(path);
      else if (name.endsWith(".ts")) {
        const text = await Deno.readTextFile(path);
        for (const [, target] of text.matchAll(/(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)) {
          out.push([relative(root, path), relative(root, join(dirname(path), target!))]);
        }
      }
    }
  };
  await visit(join(root, "src"));
  return out;
}

Deno.test("floors of src/ import downward only", async () => {
  const floor = (path: string): string => path.split("/")[1]!;
  const all = await edges(),
    climbs = all.filter(([from, to]) => {
      const allowed = MAY_IMPORT[floor(from)];
      if (floor(from) === "cli" && to === "mod.ts") return false;
      return !allowed || !to.startsWith("src/") || (floor(from) !== floor(to) && !allowed.includes(floor(to)));
    });
  assertEquals(all.length > 50, true, "the walk found too few imports to mean anything");
  assertEquals(climbs, []);
});

Deno.test("no kernel's wrapper imports another kernel's", async () => {
  const kernels = new Set([...Deno.readDirSync(join(root, "wgsl"))].map(({ name }) => name.replace(/\.wgsl$/, "")));
  const stem = (path: string): string => path.split("/").at(-1)!.replace(/\.ts$/, "");
  const crossing = (await edges()).filter(([from, to]) =>
    from.startsWith("src/kernels/") && to.startsWith("src/kernels/") && kernels.has(stem(from)) && kernels.has(stem(to))
  );
  assertEquals(crossing, []);
});

Deno.test("every kernel has its wrapper, reference, test and bench under its own stem", async () => {
  const missing: string[] = [];
  for (const { name } of Deno.readDirSync(join(root, "wgsl"))) {
    if (!name.endsWith(".wgsl")) continue;
    const stem = name.slice(0, -5);
    for (
      const path of [
        `src/kernels/${stem}.ts`,
        `src/ref/${stem}.ts`,
        `tests/kernels/${stem}_test.ts`,
        `bench/${stem}_bench.ts`,
      ]
    ) {
      await Deno.stat(join(root, path)).catch(() => missing.push(path));
    }
  }
  assertEquals(missing, []);
});
