import { type CodecShape, fields } from "../core/codec.ts";
import { BLOCK, packCodes } from "../core/pack.ts";

/** Twin of `wgsl/code_pack.wgsl`: raw codes `[K][capacity][fields]`, of which the first `tokens` tokens are packed. */
export function codePackRef(raw: Uint32Array, codec: CodecShape, heads: number, tokens: number): Uint32Array {
  const count = fields(codec).length, capacity = raw.length / heads / count;
  if (capacity % BLOCK !== 0) throw new TypeError(`Cannot pack ${capacity} tokens as they must be whole blocks`);
  const codes = new Uint16Array(tokens * heads * count);
  for (let i = 0; i < codes.length; i++) {
    const f = i % count, head = Math.floor(i / count) % heads, t = Math.floor(i / count / heads);
    codes[i] = raw[(head * capacity + t) * count + f]!;
  }
  return packCodes(codec, heads, codes);
}
