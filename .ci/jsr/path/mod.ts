/** Stand-in for JSR's @std/path in a checkout with no access to JSR: the names the project uses, over `node:path`. */
import * as path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

export const join: (...paths: string[]) => string = path.join;
export const dirname: (path: string) => string = path.dirname;
export const basename: (path: string, suffix?: string) => string = path.basename;
export const extname: (path: string) => string = path.extname;
export const resolve: (...paths: string[]) => string = path.resolve;
export const relative: (from: string, to: string) => string = path.relative;

export function fromFileUrl(url: string | URL): string {
  return fileURLToPath(url);
}

export function toFileUrl(path: string): URL {
  return pathToFileURL(path);
}
