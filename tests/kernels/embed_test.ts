import { assertEquals, assertThrows } from "@std/assert";
import { Embed } from "../../src/kernels/embed.ts";
import { WeightMatrix } from "../../src/kernels/weights.ts";
import { embedRef } from "../../src/ref/embed.ts";
import { assertAsAccurateAs } from "../_assert.ts";
import { onEachText, poisoned } from "../_gpu.ts";
import { randomWeights, TYPES } from "./_weights.ts";

Deno.test("embed", (t) =>
  onEachText(t, async (gpu, t) => {
    for (const type of TYPES) {
      const widths = type.endsWith("K") ? [256, 1280] : type.startsWith("Q") ? [32, 1120] : [4, 44, 1120];
      for (const cols of widths) {
        for (
          const [maxBytes, texels] of [[undefined, false], [64 * 4 * cols + 4000, false], [undefined, true]] as const
        ) {
          const how = maxBytes ? ", in slices" : texels ? ", in texels" : "";
          await t.step(`gives rows of ${type}, ${cols} columns${how}`, async () => {
            const sample = randomWeights(type, 200, cols, 11), tokens = [0, 199, 64, 63, 200, 7, 7, 128, 0xffffffff];
            using weights = WeightMatrix.alloc(gpu, "embedding", sample, { maxBytes, texels });
            weights.write(0, sample.file);
            using ids = gpu.upload("ids", "u32", [tokens.length], Uint32Array.from(tokens));
            using out = poisoned(gpu, "out", [tokens.length, cols]);
            const op = await Embed.create(gpu, type, { texels }), commands = gpu.commands();
            op.encode(commands, weights, { ids, out });
            commands.submit();
            const actual = await gpu.readF32(out);
            embedRef(sample.numbers, cols, tokens).forEach((want, t) => {
              const got = actual.subarray(t * cols, (t + 1) * cols);
              if (want) assertAsAccurateAs(got, want.map(Math.fround), want);
              else assertEquals(got.every(Number.isNaN), true);
            });
          });
        }
      }
    }
    await t.step("refuses what does not fit, by name", async () => {
      using weights = WeightMatrix.alloc(gpu, "w", { type: "F16", rows: 8, cols: 64 });
      using ids = gpu.alloc("ids", "u32", [3]), out = gpu.alloc("out", "f32", [3, 32]);
      const op = await Embed.create(gpu, "F16"), other = await Embed.create(gpu, "Q8_0"), commands = gpu.commands();
      assertThrows(() => op.encode(commands, weights, { ids, out }), TypeError, "'out' must have shape [3,64]");
      assertThrows(() => other.encode(commands, weights, { ids, out }), TypeError, "is for Q8_0 weights");
      const texels = await Embed.create(gpu, "F16", { texels: true });
      assertThrows(() => texels.encode(commands, weights, { ids, out }), TypeError, "in texels: these are in buffers");
    });
  }));
