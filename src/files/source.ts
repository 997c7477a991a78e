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
  /** Fills `into` from `offset`: a buffer used again is tens of times faster than new ones. */
  readInto(offset: number, into: Uint8Array<ArrayBuffer>): Promise<void>;
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
    return readNew(this, offset, length);
  }

  // deno-lint-ignore require-await -- so that errors reject
  async readInto(offset: number, into: Uint8Array<ArrayBuffer>): Promise<void> {
    expectInside(this, offset, into.length);
    this.file.seekSync(offset, Deno.SeekMode.Start);
    for (let at = 0; at < into.length;) {
      const count = this.file.readSync(into.subarray(at));
      if (count === null) throw new FileFormatError(`Cannot read ${this.name} as it became shorter while it was read`);
      at += count;
    }
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

  read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    return readNew(this, offset, length);
  }

  async readInto(offset: number, into: Uint8Array<ArrayBuffer>): Promise<void> {
    expectInside(this, offset, into.length);
    if (into.length === 0) return;
    const response = await fetchRange(this.url, offset, into.length);
    let at = 0;
    if (response.status === 206) {
      // Breaking out at a byte too many ends an endless answer.
      for await (const part of response.body ?? []) {
        if (at + part.length <= into.length) into.set(part, at);
        at += part.length;
        if (at > into.length) break;
      }
    } else await response.body?.cancel();
    if (at === into.length) return;
    throw new FileFormatError(
      `Cannot read ${this.url} as its server did not send the ${into.length} bytes asked for: try again or download it`,
    );
  }

  [Symbol.dispose](): void {}
}

async function readNew(source: ByteSource, offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
  expectInside(source, offset, length);
  const bytes = new Uint8Array(length);
  await source.readInto(offset, bytes);
  return bytes;
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
