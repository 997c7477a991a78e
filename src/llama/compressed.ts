/**
 * A compressed cache for a model: its codebook found, cut to the bits asked for, and put on the GPU.
 *
 * @module
 */
import { dirname, fromFileUrl, join } from "@std/path";
import { CodeAttention, type Side } from "../attention/code_attention.ts";
import type { ExactAttention } from "../attention/exact_cache.ts";
import { Encoder } from "../codebook/encode.ts";
import {
  type Codebook,
  expectFits,
  isAdditive,
  type ModelShape,
  readCodebook,
  type SideBook,
  sideBook,
} from "../codebook/file.ts";
import { UnsupportedModelError } from "../core/errors.ts";
import { asUrl } from "../files/source.ts";

/** How a compressed cache is kept. */
export interface CompressedOptions {
  readonly bits: { readonly k: 1 | 2; readonly v: 1 | 2 };
  /** A codebook, or the path or URL of its file; by default `codebooks.safetensors` beside the model. */
  readonly codebook?: Codebook | string | URL;
  /** Newest tokens kept exact. */
  readonly window: number;
  /** First tokens kept exact. */
  readonly sinks: number;
  readonly context: number;
}

/** Name of the codebook file beside a model. */
export const CODEBOOK_FILE = "codebooks.safetensors";

/** Where the codebook of a model lies, if it has one: `codebooks.safetensors` beside it. */
export function codebookBeside(model: string | URL): string | undefined {
  const url = asUrl(model), path = url?.protocol === "file:" ? fromFileUrl(url) : String(model);
  if (url && url.protocol !== "file:") return undefined;
  const file = join(/\.gguf$/i.test(path) ? dirname(path) : path, CODEBOOK_FILE);
  try {
    return Deno.statSync(file).isFile ? file : undefined;
  } catch {
    return undefined;
  }
}

/** Compressed attention, which owns its words on the GPU, and what it weighs. */
export interface Compressed extends Disposable {
  readonly attention: CodeAttention;
  /** A hash of the words in use. */
  readonly digest: string;
  /** Bits an element, codes and scales. */
  readonly bits: { readonly k: number; readonly v: number };
  /** Bytes of words on the GPU, and of the metrics they were fitted in. */
  readonly codebookBytes: number;
}

/** Throws for a codebook that is missing, of another model, or of too few stages. */
export async function compress(
  exact: ExactAttention,
  source: string | URL,
  model: ModelShape,
  options: CompressedOptions,
): Promise<Compressed> {
  const { gpu, dims } = exact,
    { bits, context, window, sinks } = options,
    given = options.codebook ?? codebookBeside(source);
  if (given === undefined) {
    throw new UnsupportedModelError(
      `Cannot compress the cache as no codebook was given and there is no ${CODEBOOK_FILE} beside the model: train one ` +
        "with 'train', or keep the cache at 16 bits",
    );
  }
  const isFile = typeof given === "string" || given instanceof URL, whole = isFile ? await readCodebook(given) : given;
  expectFits(isFile ? String(given) : "the codebook", whole, model);
  if (!isAdditive(whole.values)) {
    throw new UnsupportedModelError(
      "Cannot attend to values of the published encoder as there is no fused kernel for them: train with values 'codebook'",
    );
  }
  const books = { keys: sideBook(whole, "keys", bits), values: sideBook(whole, "values", bits) };
  const digest = digestOf(books);
  using building = new DisposableStack();
  let codebookBytes = 0;
  const side = async (name: "keys" | "values"): Promise<Side> => {
    const { codec, tier, words, metrics } = books[name], form = name === "keys" ? "rotated cache" : "cache";
    const encoder = building.use(await Encoder.create(gpu, { ...dims }, codec, { form, beam: whole.beam }));
    const layers = words.map((own, l) => building.use(encoder.table(own, metrics[l], tier?.thresholds[l])));
    codebookBytes += layers.reduce((sum, { bytes }) => sum + bytes, 0);
    return { encoder, layers, shares: tier?.shares };
  };
  const attention = building.use(
    await CodeAttention.create(exact, await side("keys"), await side("values"), context, { window, sinks }),
  );
  const owned = building.move();
  return {
    attention,
    digest: await digest,
    codebookBytes,
    bits: { k: attention.bits("keys"), v: attention.bits("values") },
    [Symbol.dispose]: () => owned.dispose(),
  };
}

/** A hash of the words in use and of the thresholds, layer by layer. */
async function digestOf({ keys, values }: Record<"keys" | "values", SideBook>): Promise<string> {
  const sha = async (parts: readonly (ArrayBuffer | ArrayBufferView)[]): Promise<ArrayBuffer> =>
    await crypto.subtle.digest("SHA-256", await new Blob(parts as BlobPart[]).arrayBuffer());
  const limits = ({ tier }: SideBook, l: number): Float64Array => Float64Array.from(tier?.thresholds[l] ?? []);
  const hashes = [await sha([new TextEncoder().encode(JSON.stringify([keys.codec, values.codec]))])];
  for (const [l, words] of keys.words.entries()) {
    hashes.push(await sha([...words, ...values.words[l]!, limits(keys, l), limits(values, l)]));
  }
  return new Uint8Array(await sha(hashes)).toHex();
}
