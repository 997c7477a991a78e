/** Attention of one token to packed codes, whole, beside the exact kernel over an f16 cache. */
import { attnStepShapes } from "../src/core/shapes.ts";
import { AttnCodes, chooseAttnCodes } from "../src/kernels/attn_codes.ts";
import { AttnMerge } from "../src/kernels/attn_merge.ts";
import { AttnStep } from "../src/kernels/attn_step.ts";
import { random } from "./_attn.ts";
import {
  CODECS,
  CONTEXTS,
  gpu,
  HEADS,
  perToken,
  queries,
  repetitions,
  rope,
  SIDES,
  software,
  stream,
} from "./_codes.ts";
import { ROTATE_BYTES, time } from "./_harness.ts";

const { qHeads, kvHeads, headDim } = HEADS, rows = qHeads, merge = await AttnMerge.create(gpu, headDim);
using ropeTable = rope(gpu);
using q = queries(gpu);
using out = gpu.alloc("out", "f32", [qHeads, headDim]);
for (const tokens of CONTEXTS) {
  {
    const op = await AttnStep.create(gpu, HEADS), states = op.splits(tokens), bytes = 4 * kvHeads * tokens * headDim;
    const shapes = attnStepShapes({ ...HEADS, capacity: tokens, states, tableRows: ropeTable.shape[0]! });
    using stack = new DisposableStack();
    const make = (name: keyof typeof shapes, dtype: "f32" | "u32" = "f32") =>
      stack.use(random(gpu, name, dtype, shapes[name]));
    const io = { ropeTable, qkv: make("qkv"), q: make("q"), partialO: make("partialO"), partialMd: make("partialMd") };
    const caches = Array.from({ length: Math.ceil((software ? 2 ** 20 : ROTATE_BYTES) / bytes) }, () => ({
      keys: make("keys", "u32"),
      values: make("values", "u32"),
    }));
    perToken(
      await time(`attn_step f16 T=${tokens}`, bytes, (commands, i) => {
        op.encode(commands, { ...io, ...caches[i % caches.length]! }, { position: tokens - 1 });
        merge.encode(commands, { ...io, out }, { rows, splits: states, headDim });
      }, { repetitions }),
      tokens,
    );
  }
  for (const [name, of] of Object.entries(SIDES)) {
    const dims = { qHeads, kvHeads, keys: of.keys.codec, values: of.values.codec };
    using keys = stream(of.keys.codec, tokens, 0.5, of.keys.shares);
    using values = stream(of.values.codec, tokens, 0.5, of.values.shares);
    const chosen = chooseAttnCodes(dims, gpu);
    const { values: decode } = chooseAttnCodes({ ...dims, values: CODECS["p+s8+s16+s32"]! }, gpu);
    const commuted = { ...chosen.keys, words: "words_f32", heads: 1, isCommuted: true } as const;
    const variants = {
      chosen,
      ...("mass" in chosen.values ? { "values decoded": { ...chosen, values: decode } } : {}),
      ...("decode" in decode && name === "11 pair"
        ? { "keys commuted": { keys: commuted, values: { decode: { ...decode.decode, heads: 1 } as const } } }
        : {}),
    };
    for (const [kind, variant] of Object.entries(variants)) {
      using op = await AttnCodes.create(gpu, dims, tokens, { variant });
      const states = op.states(tokens);
      using partialO = gpu.alloc("partial_o", "f32", [states, qHeads, headDim]);
      using partialMd = gpu.alloc("partial_md", "f32", [states, qHeads, 2]);
      const timing = await time(`attn_codes ${name} T=${tokens}, ${kind}`, keys.bytes + values.bytes, (commands, i) => {
        const io = {
          ...{ q, ropeTable, partialO, partialMd },
          keys: { table: keys.table, ...keys.copies[i % keys.copies.length]! },
          values: { table: values.table, ...values.copies[i % values.copies.length]! },
        };
        const splits = op.encode(commands, io, { tokens });
        merge.encode(commands, { partialO, partialMd, out }, { rows, splits, headDim });
      }, { repetitions });
      perToken(timing, tokens);
    }
  }
}
