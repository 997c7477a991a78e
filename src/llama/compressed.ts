/**
 * A compressed cache for a model: its codebook found, cut to the bits asked for, and put on the GPU.
 *
 * @module
 */
import { dirname, fromFileUrl, join } from "@std/path";
import { CodeAttention, type Side } from "../attention/code_cache.ts";
import type { ExactAttention } from "../attention/exact_cache.ts";
import { Encoder } from "../codebook/encode.ts";
import {
  type Codebook,
  expectFits,
  isAdditive,
  type ModelShape,
  readCodebook,
  stagesAt,
  truncate,
} from "../codebook/file.ts";
import { codeBits, type CodecShape } from "../core/codec.ts";
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
  /** Bytes of words on the GPU, and of what finds the nearest. */
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
  const counts = stagesAt(whole, bits),
    count = (codec: CodecShape, wanted: number, bits: 1 | 2): number => {
      if (wanted <= codec.stages.length) return wanted;
      throw new UnsupportedModelError(
        `Cannot keep the cache at ${bits} bits as the codebook has ${codec.stages.length} stages of the ${wanted}`,
      );
    };
  const book = truncate(whole, {
    keys: count(whole.keys, counts.keys, bits.k),
    values: count(whole.values, counts.values, bits.v),
  });
  const digest = digestOf(book);
  const codecs = { keys: book.keys, values: book.values as CodecShape };
  using building = new DisposableStack();
  let codebookBytes = 0;
  const side = async (name: "keys" | "values"): Promise<Side> => {
    const form = name === "keys" ? "rotated cache" : "cache";
    const encoder = building.use(await Encoder.create(gpu, { ...dims }, codecs[name], { form, beam: book.beam }));
    const layers = book.layers.map((layer) =>
      building.use(encoder.table(layer[name] as readonly Uint16Array[], layer.metrics?.[name]))
    );
    codebookBytes += layers.reduce((sum, { bytes }) => sum + bytes, 0);
    return { encoder, layers };
  };
  const attention = building.use(
    await CodeAttention.create(exact, await side("keys"), await side("values"), context, { window, sinks }),
  );
  const owned = building.move(), share = 16 / dims.kvHeads;
  return {
    attention,
    digest: await digest,
    codebookBytes,
    bits: { k: (codeBits(codecs.keys) + share) / dims.headDim, v: (codeBits(codecs.values) + share) / dims.headDim },
    [Symbol.dispose]: () => owned.dispose(),
  };
}

/** A hash of a codebook's words, layer by layer. */
async function digestOf({ layers }: Codebook): Promise<string> {
  const sha = async (parts: readonly (ArrayBuffer | Uint16Array)[]): Promise<ArrayBuffer> =>
    await crypto.subtle.digest("SHA-256", await new Blob(parts as BlobPart[]).arrayBuffer());
  const hashes: ArrayBuffer[] = [];
  for (const { keys, values } of layers) hashes.push(await sha([...keys, ...values as readonly Uint16Array[]]));
  return new Uint8Array(await sha(hashes)).toHex();
}
