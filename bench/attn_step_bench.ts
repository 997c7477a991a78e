/** A step's attention to an exact cache: the kernel alone, and with the merge of its states. */
import { ropeTableRows } from "../src/core/rope_table.ts";
import { attnStepShapes } from "../src/core/shapes.ts";
import { AttnMerge } from "../src/kernels/attn_merge.ts";
import { AttnStep, attnStepSplits, chooseAttnStep } from "../src/kernels/attn_step.ts";
import { random } from "./_attn.ts";
import { bench, ROTATE_BYTES, time } from "./_harness.ts";

const { gpu, software } = await bench();
const contexts = software ? [1024] : [1, 256, 1024, 8192, 32_768, 131_072];
const rotated = software ? 2 ** 22 : ROTATE_BYTES;
for (const [qHeads, kvHeads, headDim] of [[32, 8, 128], [64, 8, 128], [32, 32, 128], [8, 4, 64]] as const) {
  const heads = { qHeads, kvHeads, headDim }, chosen = chooseAttnStep(heads, gpu);
  const merge = await AttnMerge.create(gpu, headDim);
  for (const seen of contexts) {
    const position = seen - 1, dims = { ...heads, capacity: seen, states: 512, tableRows: ropeTableRows(seen) };
    const shapes = attnStepShapes(dims), bytes = 2 * 2 * kvHeads * seen * headDim;
    using stack = new DisposableStack();
    const make = (label: keyof typeof shapes, dtype: "f32" | "u32" = "f32") =>
      stack.use(random(gpu, label, dtype, shapes[label]));
    const [qkv, ropeTable, q] = [make("qkv"), make("ropeTable"), make("q")];
    const partialO = make("partialO"), partialMd = make("partialMd");
    const out = stack.use(gpu.alloc("out", "f32", [qHeads, headDim]));
    const caches = Array.from({ length: Math.min(256, Math.ceil(rotated / bytes)) }, () => ({
      keys: make("keys", "u32"),
      values: make("values", "u32"),
    }));
    const others = software || qHeads !== 32
      ? []
      : [32, 64, 128].flatMap((chunkLanes) =>
        [16, 32, 64, 128, 256, 512].filter((splits) => splits * 32 <= seen).map((splits) => ({ chunkLanes, splits }))
      );
    for (const { chunkLanes, splits } of [{ ...chosen, splits: attnStepSplits(chosen, seen) }, ...others]) {
      const op = await AttnStep.create(gpu, heads, { variant: { ...chosen, chunkLanes } });
      const about = `${qHeads}/${kvHeads} of ${headDim}, seen=${seen}, lanes=${chunkLanes} splits=${splits}`;
      for (const merges of splits > 1 ? [false, true] : [false]) {
        await time(`attn_step ${about}${merges ? ", merged" : ""}`, bytes, (commands, i) => {
          const io = { qkv, ropeTable, q, ...caches[i % caches.length]!, partialO, partialMd };
          op.encode(commands, io, { position, splits });
          if (merges) merge.encode(commands, { partialO, partialMd, out }, { rows: qHeads, splits, headDim });
        }, { flops: 4 * qHeads * seen * headDim, repetitions: software ? 5 : 30 });
      }
    }
  }
}
