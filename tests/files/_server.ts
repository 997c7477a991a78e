/** A web server of a folder, for tests. */

/** Serves `folder` with ranges, or as servers do that have none, or that refuse. */
export function serveFolder(
  folder: string,
  manner: "ranges" | "whole" | "forbidden" | "short" | "endless" = "ranges",
): {
  readonly url: URL;
  [Symbol.asyncDispose](): Promise<void>;
} {
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, async (request) => {
    if (manner === "forbidden") return new Response(null, { status: 403 });
    const path = folder + decodeURI(new URL(request.url).pathname);
    const bytes = await Deno.readFile(path).catch(() => undefined);
    if (!bytes) return new Response("no such file", { status: 404 });
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.get("range") ?? "");
    if (manner === "whole" || !range) return new Response(bytes);
    const first = Number(range[1]), last = Math.min(Number(range[2]), bytes.length - 1);
    const part = bytes.slice(first, manner === "short" ? last : last + 1);
    const endless = () => new ReadableStream({ pull: (to) => to.enqueue(new Uint8Array(65_536)) });
    return new Response(manner === "endless" ? endless() : part, {
      status: 206,
      headers: { "content-range": `bytes ${first}-${last}/${bytes.length}` },
    });
  });
  return {
    url: new URL(`http://127.0.0.1:${server.addr.port}/`),
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}
