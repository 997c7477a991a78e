/**
 * Codebooks as evaluation applies them: encoded and decoded again by the kernels that a compressed cache uses.
 *
 * @module
 */
import { Encoder } from "../codebook/encode.ts";
import { type Codebook, expectFits, isAdditive, sideBook } from "../codebook/file.ts";
import { type ValueArrays, ValueEncoder } from "../codebook/value_encoder.ts";
import { codeBits } from "../core/codec.ts";
import { blocks, moreRoom, moreStarts } from "../core/pack.ts";
import type { ValueDims } from "../core/shapes.ts";
import { elements, type Tensor } from "../gpu/tensor.ts";
import { CodeDecode } from "../kernels/code_decode.ts";
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
export interface Side {
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
  const additive = (side: "keys" | "values"): Promise<Side> => additiveSide(forward, side, codebook, bits, owned);
  const keys = await additive("keys");
  const values = isAdditive(codebook.values)
    ? await additive("values")
    : await encoderSide(forward, codebook, bits?.v, name, owned);
  const { text = "unknown text", tokens = "?" } = codebook.record;
  return {
    name,
    about: `CommVQ, keys ${keys.about}, values ${values.about}, beam ${
      codebook.beam ?? 1
    }; trained on ${tokens} tokens of ${text}`,
    bitsCode: (keys.bits + values.bits) / 2,
    sharedBytes: keys.bytes + values.bytes,
    far: {
      async quantize(layer, exact, left) {
        await keys.quantize(layer, exact.keys, left.keys);
        await values.quantize(layer, exact.values, left.values);
      },
    },
  };
}

/** Bits an element of a token's scale, which its heads share. */
const scaleBits = ({ config: { kvHeads, headDim } }: Forward): number => 16 / (kvHeads * headDim);

/** Makes a side pass through the codes of so many bits, or of all its stages: bits are those that its codes take as allocated. */
export async function additiveSide(
  forward: Forward,
  side: "keys" | "values",
  book: Codebook,
  bits: CodebookMethod["bits"],
  owned: DisposableStack,
): Promise<Side> {
  const { gpu, config: { kvHeads, headDim }, ropeTable, capacity } = forward, isKeys = side === "keys";
  const { codec, tier, words, metrics } = sideBook(book, side, bits);
  const form = isKeys ? "rotated cache" : "cache";
  const encoder = owned.use(await Encoder.create(gpu, { kvHeads, headDim }, codec, { form, beam: book.beam }));
  const decode = await CodeDecode.create(gpu, codec, kvHeads, { rotate: isKeys });
  const tables = words.map((own, l) => owned.use(encoder.table(own, metrics[l], tier?.thresholds[l])));
  /** Where further codes of a layer lie in a cache of so many tokens. */
  const startsOf = (layer: number, tokens: number): Uint32Array =>
    moreStarts(codec, tier!.shares[layer]!.map((share) => moreRoom(tokens, share)), blocks(capacity));
  const most = tier?.shares[0]?.map((_, k) => Math.max(...tier.shares.map((heads) => heads[k]!)));
  const packed = encoder.allocCodes(capacity, most);
  for (const tensor of Object.values(packed)) owned.use(tensor);
  const quads = owned.use(gpu.upload("quads", "u32", [codec.stages.length, headDim / 8, 2], codeQuads(codec)));
  const moreWords = tier ? words.reduce((sum, _, l) => sum + startsOf(l, capacity).at(-1)!, 0) / words.length : 0;
  const stages = tier ? `${tier.base} stages or ${tier.stages}` : `${codec.stages.length} stages`;
  return {
    bits: codeBits(codec) / headDim + 32 * moreWords / (capacity * kvHeads * headDim) + scaleBits(forward),
    bytes: tables.reduce((sum, { bytes }) => sum + bytes, 0),
    about: `in ${stages}${metrics[0] ? " by their metric" : ""}`,
    quantize(layer, exact, left) {
      const commands = gpu.commands("code"), { table } = tables[layer]!, tokens = exact.shape[1]!;
      if (packed.more) gpu.write(packed.more, startsOf(layer, tokens)); // as much room as a cache of these tokens has
      encoder.encode(commands, tables[layer]!, { source: exact, ropeTable, ...packed }, { tokens });
      decode.encode(commands, { table, ...packed, quads, ropeTable, out: left }, { tokens });
      commands.submit();
      return Promise.resolve();
    },
  };
}

/** Values through the published encoder, whose rows are tokens with their heads side by side. */
async function encoderSide(
  forward: Forward,
  { layers, values }: Codebook,
  bits: 1 | 2 | undefined,
  name: string,
  owned: DisposableStack,
): Promise<Side> {
  if (!isAdditive(values) && bits !== undefined && values.bits !== bits) {
    throw new RangeError(`Cannot cut ${name} to ${bits} bits as its value encoder is for ${values.bits}`);
  }
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
