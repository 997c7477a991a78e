/**
 * Codebooks as evaluation applies them: encoded and decoded again by the kernels that a compressed cache uses.
 *
 * @module
 */
import { Encoder } from "../codebook/encode.ts";
import { type Codebook, expectFits, isAdditive, stagesAt, type Tier, truncate } from "../codebook/file.ts";
import { type ValueArrays, ValueEncoder } from "../codebook/value_encoder.ts";
import { codeBits, type CodecShape } from "../core/codec.ts";
import type { ValueDims } from "../core/shapes.ts";
import { BLOCK, blocks } from "../core/pack.ts";
import { elements, type Tensor } from "../gpu/tensor.ts";
import { CodeDecode } from "../kernels/code_decode.ts";
import { CodeSelect } from "../kernels/code_select.ts";
import { codeQuads } from "../kernels/packed_codes.ts";
import type { Forward } from "./forward.ts";
import type { Method } from "./methods.ts";
import { readNumbers, writeNumbers } from "./numbers.ts";

/** A codebook to measure. */
export interface CodebookMethod {
  /** As tables call it. */
  readonly name: string;
  /** The codebook, for the model that is evaluated. */
  readonly codebook: Codebook;
  /** Bits an element to cut the codebook to, in tiers if it has some for them; all its stages without. */
  readonly bits?: { readonly k: 1 | 2; readonly v: 1 | 2 };
}

/** One side of a cache through a codec and back. */
interface Side {
  readonly bits: number;
  readonly bytes: number;
  readonly about: string;
  quantize(layer: number, exact: Tensor, left: Tensor): Promise<void>;
}

/** Makes a codebook a method. What it holds on the GPU goes to `owned`. Throws `FileFormatError` for another model's. */
export async function codebookMethod(
  forward: Forward,
  fingerprint: string,
  { name, codebook, bits }: CodebookMethod,
  owned: DisposableStack,
): Promise<Method> {
  const { layers, kvHeads, headDim } = forward.config;
  expectFits(name, codebook, { layers, kvHeads, headDim, fingerprint });
  const tiers = bits && bits.k === bits.v ? codebook.tiers?.[bits.k] : undefined;
  const book = bits && !tiers ? truncate(codebook, stagesOf(codebook, bits, name)) : codebook;
  const additive = (side: "keys" | "values"): Promise<Side> =>
    tiers ? tieredSide(forward, side, book, tiers[side], owned) : additiveSide(forward, side, book, owned);
  const keys = await additive("keys");
  const values = isAdditive(book.values) ? await additive("values") : await encoderSide(forward, book, owned);
  const { text = "unknown text", tokens = "?" } = book.record;
  return {
    name,
    about: `CommVQ, keys ${keys.about}, values ${values.about}, beam ${
      book.beam ?? 1
    }; trained on ${tokens} tokens of ${text}`,
    get bitsCode() { // tiers count their tokens as they go
      return (keys.bits + values.bits) / 2;
    },
    sharedBytes: keys.bytes + values.bytes,
    far: {
      async quantize(layer, exact, left) {
        await keys.quantize(layer, exact.keys, left.keys);
        await values.quantize(layer, exact.values, left.values);
      },
    },
  };
}

/** Stages of both sides at the bits asked for. */
function stagesOf(
  codebook: Codebook,
  bits: { k: 1 | 2; v: 1 | 2 },
  name: string,
): { keys: number; values?: number } {
  const { keys, values } = codebook, counts = stagesAt(codebook, bits);
  const count = (codec: CodecShape, wanted: number, bits: 1 | 2): number => {
    if (wanted <= codec.stages.length) return wanted;
    throw new RangeError(
      `Cannot cut ${name} to ${bits} bits as it must have ${wanted} stages: it has ${codec.stages.length}`,
    );
  };
  if (!isAdditive(values) && values.bits !== bits.v) {
    throw new RangeError(`Cannot cut ${name} to ${bits.v} bits as its value encoder is for ${values.bits}`);
  }
  return {
    keys: count(keys, counts.keys, bits.k),
    ...isAdditive(values) && { values: count(values, counts.values, bits.v) },
  };
}

/** Bits an element of a token's scale, which its heads share. */
const scaleBits = ({ config: { kvHeads, headDim } }: Forward): number => 16 / (kvHeads * headDim);

/** A side's first `stages`, or all. */
async function additiveSide(
  forward: Forward,
  side: "keys" | "values",
  book: Codebook,
  owned: DisposableStack,
  stages?: number,
): Promise<Side & { readonly encoder: Encoder; readonly scales: Tensor }> {
  const { gpu, config: { kvHeads, headDim }, ropeTable, capacity } = forward, isKeys = side === "keys";
  const whole = book[side] as CodecShape, codec = { headDim, stages: whole.stages.slice(0, stages) };
  const encoder = owned.use(
    await Encoder.create(gpu, { kvHeads, headDim }, codec, {
      form: isKeys ? "rotated cache" : "cache",
      beam: book.beam,
      chunk: stages === undefined ? undefined : blocks(capacity) * BLOCK, // tiers look at what is left
    }),
  );
  const decode = await CodeDecode.create(gpu, codec, kvHeads, { rotate: isKeys });
  const tables = book.layers.map((layer) =>
    owned.use(encoder.table((layer[side] as readonly Uint16Array[]).slice(0, stages), layer.metrics?.[side]))
  );
  const { codes, scales } = encoder.allocCodes(capacity);
  owned.use(codes);
  owned.use(scales);
  const quads = owned.use(gpu.upload("quads", "u32", [codec.stages.length, headDim / 8, 2], codeQuads(codec)));
  return {
    bits: codeBits(codec) / headDim + scaleBits(forward),
    bytes: tables.reduce((sum, { bytes }) => sum + bytes, 0),
    about: `in ${codec.stages.length} stages${book.layers[0]?.metrics?.[side] ? " by their metric" : ""}`,
    ...{ encoder, scales },
    quantize(layer, exact, left) {
      const commands = gpu.commands("code"), { table } = tables[layer]!, tokens = exact.shape[1]!;
      encoder.encode(commands, tables[layer]!, { source: exact, ropeTable, codes, scales }, { tokens });
      decode.encode(commands, { table, codes, scales, quads, ropeTable, out: left }, { tokens });
      commands.submit();
      return Promise.resolve();
    },
  };
}

/** All tokens in a tier's first stages, then those that these miss by too much in all: one bit a token and head says which. */
async function tieredSide(
  forward: Forward,
  side: "keys" | "values",
  book: Codebook,
  { base, stages, thresholds }: Tier,
  owned: DisposableStack,
): Promise<Side> {
  const { gpu, config: { kvHeads, headDim }, capacity } = forward;
  const few = await additiveSide(forward, side, book, owned, base),
    more = await additiveSide(forward, side, book, owned, stages);
  const select = await CodeSelect.create(gpu, headDim);
  const limits = thresholds.map((own) => owned.use(gpu.upload("thresholds", "f32", [kvHeads], Float32Array.from(own))));
  const cache = owned.use(gpu.alloc("more stages", "u32", [kvHeads, capacity, headDim / 2]));
  const mask = owned.use(gpu.alloc("picked", "u32", [kvHeads, capacity]));
  let all = 0, count = 0;
  return {
    get bits() {
      return few.bits + (1 + (all > 0 ? count / all : 0) * (more.bits - few.bits) * headDim) / headDim;
    },
    bytes: more.bytes + 4 * thresholds.length * kvHeads,
    about: `in ${base} stages or ${stages}${book.layers[0]?.metrics?.[side] ? " by their metric" : ""}`,
    async quantize(layer, exact, left) {
      const tokens = exact.shape[1]!, fromCache = cache.view(0, exact.shape), picked = mask.view(0, [kvHeads, tokens]);
      await few.quantize(layer, exact, left);
      await more.quantize(layer, exact, fromCache);
      const commands = gpu.commands("choose"), { encoder: { residual }, scales } = few;
      select.encode(commands, { residual, scales, thresholds: limits[layer]!, fromCache, toCache: left, picked });
      commands.submit();
      for (const one of await gpu.readU32(picked)) count += one;
      all += kvHeads * tokens;
    },
  };
}

/** Values through the published encoder, whose rows are tokens with their heads side by side. */
async function encoderSide(forward: Forward, { layers, values }: Codebook, owned: DisposableStack): Promise<Side> {
  const { gpu } = forward, arrays = layers.map((layer) => layer.values as ValueArrays);
  const encoder = owned.use(await ValueEncoder.fromArrays(gpu, arrays));
  const sizes = arrays.flatMap((ofLayer) => Object.values(ofLayer).map(({ shape }) => 4 * elements(shape)));
  return {
    bits: (values as ValueDims).bits + scaleBits(forward),
    bytes: sizes.reduce((a, b) => a + b, 0),
    about: "by the published encoder",
    async quantize(layer, exact, left) {
      const [kvHeads, tokens, words] = exact.shape as readonly [number, number, number], headDim = 2 * words;
      const numbers = await readNumbers(gpu, exact), features = kvHeads * headDim, rows = numbers.slice();
      const each = (visit: (at: number, row: number) => void): void => {
        for (let k = 0; k < kvHeads; k++) {
          for (let t = 0; t < tokens; t++) visit((k * tokens + t) * headDim, t * features + k * headDim);
        }
      };
      each((at, row) => rows.set(numbers.subarray(at, at + headDim), row));
      using values = gpu.upload("values", "f32", [tokens, features], rows);
      using stack = new DisposableStack();
      const code = encoder.allocCode(tokens);
      stack.use(code.words);
      stack.use(code.scales);
      const commands = gpu.commands("value code");
      encoder.encode(commands, layer, values, code);
      encoder.decode(commands, layer, code, values);
      commands.submit();
      const decoded = await gpu.readF32(values);
      each((at, row) => numbers.set(decoded.subarray(row, row + headDim), at));
      writeNumbers(gpu, left, numbers);
    },
  };
}
