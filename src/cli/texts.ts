import { basename } from "@std/path";
import { UsageError } from "./args.ts";

/** A whole file as text, unzipped where its name says so. `option` names it in errors. */
export async function readFile(path: string, option: string): Promise<string> {
  let file: Deno.FsFile;
  try {
    file = await Deno.open(path);
  } catch (error) {
    throw new UsageError(`Cannot read --${option} ${path}: ${(error as Error).message}`);
  }
  const bytes = path.endsWith(".gz") ? file.readable.pipeThrough(new DecompressionStream("gzip")) : file.readable;
  try {
    return await new Response(bytes).text();
  } catch {
    throw new UsageError(`Cannot read --${option} ${path}: it is not whole gzip data`);
  }
}

/** Makes sure, before long work, that a folder is there to write its result to. `option` names it in errors. */
export async function prepareFolder(folder: string, option: string): Promise<void> {
  try {
    await Deno.mkdir(folder, { recursive: true });
    await Deno.remove(await Deno.makeTempFile({ dir: folder }));
  } catch (error) {
    throw new UsageError(`Cannot write --${option} to ${folder}: ${(error as Error).message}`);
  }
}

/** Texts of files: `.jsonl` documents with a field `text`, or plain text; either may be gzipped. */
export async function readTexts(paths: readonly string[]): Promise<string[]> {
  const texts: string[] = [];
  for (const path of paths) {
    const text = await readFile(path, "text");
    if (!/\.jsonl(\.gz)?$/.test(path)) texts.push(text);
    else {
      for (const [i, line] of text.split("\n").entries()) {
        if (line.trim() !== "") texts.push(documentOf(line, `${basename(path)}:${i + 1}`));
      }
    }
  }
  return texts;
}

function documentOf(line: string, where: string): string {
  let text: unknown;
  try {
    text = JSON.parse(line).text;
  } catch { /* told below */ }
  if (typeof text !== "string") throw new UsageError(`Cannot use ${where}: each line must be an object with a text`);
  return text;
}
