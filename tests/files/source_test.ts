import { assertEquals, assertRejects } from "@std/assert";
import { toFileUrl } from "@std/path";
import { FileFormatError } from "../../src/core/errors.ts";
import { openSource } from "../../src/files/source.ts";
import { serveFolder } from "./_server.ts";

const BYTES = Uint8Array.from({ length: 1000 }, (_, i) => i * 7);

async function folder(): Promise<string> {
  const path = await Deno.makeTempDir();
  await Deno.writeFile(`${path}/a file.bin`, BYTES);
  return path;
}

Deno.test("openSource() reads ranges of a path, a file: URL and an http: URL", async () => {
  const path = await folder();
  await using server = serveFolder(path);
  const file = `${path}/a file.bin`;
  for (const location of [file, toFileUrl(file), toFileUrl(file).href, new URL("a file.bin", server.url)]) {
    using source = await openSource(location);
    assertEquals([source.size, decodeURI(source.name)], [1000, "a file.bin"]);
    assertEquals(await source.read(0, 1000), BYTES);
    assertEquals(await source.read(998, 2), BYTES.subarray(998));
    assertEquals(await source.read(500, 0), new Uint8Array(0));
    const into = new Uint8Array(5);
    await source.readInto(7, into);
    assertEquals(into, BYTES.subarray(7, 12));
    for (const [offset, length] of [[999, 2], [1001, 0], [-1, 2], [0, -1], [NaN, 1], [0, 2 ** 50]] as const) {
      await assertRejects(
        async () => await source.read(offset, length),
        FileFormatError,
        `it ends too soon: bytes ${offset}`,
      );
    }
  }
});

Deno.test("openSource() says in one sentence what is not there", async () => {
  const path = await folder();
  await using server = serveFolder(path);
  await assertRejects(() => openSource(`${path}/none`), Deno.errors.NotFound, "none as there is no such file");
  await assertRejects(() => openSource(path), FileFormatError, "as it is not a file");
  const none = new URL("none", server.url);
  await assertRejects(() => openSource(none), Deno.errors.NotFound, "none as there is no such file");
});

Deno.test("openSource() refuses a server without ranges, and one that fails", async () => {
  const path = await folder();
  {
    await using server = serveFolder(path, "whole");
    const url = new URL("a file.bin", server.url);
    await assertRejects(
      () => openSource(url),
      FileFormatError,
      "does not answer range requests: download the file first",
    );
  }
  for (const manner of ["short", "endless"] as const) {
    await using server = serveFolder(path, manner);
    using source = await openSource(new URL("a file.bin", server.url));
    await assertRejects(() => source.read(0, 100), FileFormatError, "did not send the 100 bytes asked for");
  }
  await using server = serveFolder(path, "forbidden");
  await assertRejects(() => openSource(new URL("x", server.url)), FileFormatError, "as its server answers 403");
});

Deno.test("a source tells of a file that shrinks while it is read", async () => {
  const path = `${await folder()}/a file.bin`;
  using source = await openSource(path);
  await Deno.truncate(path, 10);
  await assertRejects(async () => await source.read(0, 1000), FileFormatError, "it became shorter");
});
