import { type CodecShape, fields, stageRows, tableRows } from "../core/codec.ts";
import { residualAt } from "./code_residual.ts";
import { distanceRef } from "./em_assign.ts";

/**
 * Twin of `wgsl/code_encode.wgsl` in f64, by looking at every word of every stage: codes `[T][heads][fields]`, before
 * packing. `residual` is changed to what they miss. `words` is `[heads][rows][D]`.
 */
export function codeEncodeRef(
  residual: Float64Array,
  words: ArrayLike<number>,
  codec: CodecShape,
  heads: number,
  tokens: number,
): Uint16Array {
  const list = fields(codec), { headDim } = codec, rows = tableRows(codec);
  const codes = new Uint16Array(tokens * heads * list.length);
  list.forEach(({ stage: s, group, row, pair, pairs, bits }, f) => {
    const stage = codec.stages[s]!,
      own = Float64Array.from({ length: heads * stageRows(stage) * headDim }, (_, i) => {
        const size = stageRows(stage) * headDim;
        return words[(Math.floor(i / size) * rows + row) * headDim + i % size]!;
      });
    const dims = { headDim, heads, tokens, stage };
    for (let token = 0; token < tokens; token++) {
      for (let head = 0; head < heads; head++) {
        let best = Infinity, which = 0;
        for (let code = 0; code < 2 ** bits; code++) {
          const distance = distanceRef(residual, own, dims, { head, token, group, code });
          if (distance < best) [best, which] = [distance, code];
        }
        codes[(token * heads + head) * list.length + f] = which;
        const picked = bits === 12 ? [which >> 6, 64 + (which & 63)] : [which];
        for (let c = 2 * pair; c < 2 * (pair + pairs); c++) {
          const at = residualAt(headDim, tokens, head, token, c);
          for (const word of picked) residual[at]! -= own[(head * stageRows(stage) + word) * headDim + c]!;
        }
      }
    }
  });
  return codes;
}

/** Vectors `[T][K·D]`, heads side by side, that codes `[T][K][fields]` and scales stand for, in f64. */
export function codeDecodeRef(
  codec: CodecShape,
  kvHeads: number,
  table: Float64Array,
  codes: Uint16Array,
  scales: ArrayLike<number>,
): Float64Array {
  const list = fields(codec), rows = tableRows(codec), { headDim } = codec, pairs = headDim / 2;
  const tokens = codes.length / (kvHeads * list.length), out = new Float64Array(tokens * kvHeads * headDim);
  for (let t = 0; t < tokens; t++) {
    for (let k = 0; k < kvHeads; k++) {
      const at = (t * kvHeads + k) * headDim;
      list.forEach((field, f) => {
        const code = codes[(t * kvHeads + k) * list.length + f]!;
        const picked = field.bits === 12 ? [code >> 6, 64 + (code & 63)] : [code];
        for (const word of picked) {
          for (let d = field.pair; d < field.pair + field.pairs; d++) {
            const from = 2 * ((k * rows + field.row + word) * pairs + d);
            out[at + d]! += scales[t]! * table[from]!;
            out[at + pairs + d]! += scales[t]! * table[from + 1]!;
          }
        }
      });
    }
  }
  return out;
}
