/**
 * Bytes of a file or URL, read by range.
 *
 * @module
 */
import { basename, fromFileUrl } from "@std/path";
import { FileFormatError } from "../core/errors.ts";

/** A file that is read by range. Dispose it to close it. */
export interface ByteSource extends Disposable {
  /** Name for messages. */
  readonly name: string;
  readonly size: number;
  /** `length` bytes from `offset`. Throws `FileFormatError` past the end. */
  read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** Opens a path, or a `file:`, `http:` or `https:` URL. */
export async function openSource(location: string | URL): Promise<ByteSource> {
  const url = asUrl(location);
  return url && url.protocol !== "file:"
    ? await WebSource.open(url)
    : FileSource.open(url ? fromFileUrl(url) : String(location));
}

/** The URL that a location is, or `undefined` for a path. */
export function asUrl(location: string | URL): URL | undefined {
  if (location instanceof URL) return location;
  return /^(file|https?):\/\//.test(location) ? new URL(location) : undefined;
}

/** A local file. */
class FileSource implements ByteSource {
  private constructor(readonly name: string, readonly size: number, readonly file: Deno.FsFile) {}

  static open(path: string): FileSource {
    let file: Deno.FsFile;
    try {
      file = Deno.openSync(path);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) {
        throw new Deno.errors.NotFound(`Cannot open ${path} as there is no such file`);
      }
      throw error;
    }
    const { size, isFile } = file.statSync();
    if (isFile) return new FileSource(basename(path), size, file);
    file.close();
    throw new FileFormatError(`Cannot open ${path} as it is not a file`);
  }

  read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    expectInside(this, offset, length);
    const bytes = new Uint8Array(length);
    this.file.seekSync(offset, Deno.SeekMode.Start);
    for (let at = 0; at < length;) {
      const count = this.file.readSync(bytes.subarray(at));
      if (count === null) throw new FileFormatError(`Cannot read ${this.name} as it became shorter while it was read`);
      at += count;
    }
    return Promise.resolve(bytes);
  }

  [Symbol.dispose](): void {
    this.file.close();
  }
}

/** A file on a server that answers range requests. */
class WebSource implements ByteSource {
  private constructor(readonly name: string, readonly size: number, readonly url: URL) {}

  static async open(url: URL): Promise<WebSource> {
    const response = await fetchRange(url, 0, 1);
    await response.body?.cancel();
    if (response.status === 404) throw new Deno.errors.NotFound(`Cannot open ${url} as there is no such file`);
    if (!response.ok) throw new FileFormatError(`Cannot read ${url} as its server answers ${response.status}`);
    const size = Number(response.headers.get("content-range")?.split("/")[1]);
    if (response.status !== 206 || !Number.isSafeInteger(size)) {
      throw new FileFormatError(
        `Cannot read ${url} as its server does not answer range requests: download the file first`,
      );
    }
    return new WebSource(basename(url.pathname), size, url);
  }

  async read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    expectInside(this, offset, length);
    if (length === 0) return new Uint8Array(0);
    const response = await fetchRange(this.url, offset, length);
    const bytes = new Uint8Array(await response.arrayBuffer());
    if (response.status === 206 && bytes.length === length) return bytes;
    throw new FileFormatError(
      `Cannot read ${this.url} as its server sent ${bytes.length} bytes where ${length} were asked for`,
    );
  }

  [Symbol.dispose](): void {}
}

/** `identity`, as a range of compressed bytes would be of no use. */
function fetchRange(url: URL, offset: number, length: number): Promise<Response> {
  return fetch(url, { headers: { range: `bytes=${offset}-${offset + length - 1}`, "accept-encoding": "identity" } });
}

function expectInside({ name, size }: ByteSource, offset: number, length: number): void {
  if (!(offset >= 0 && length >= 0 && offset + length <= size)) {
    throw new FileFormatError(
      `Cannot read ${name} as it ends too soon: bytes ${offset} to ${offset + length} are wanted and it has ${size}`,
    );
  }
}
