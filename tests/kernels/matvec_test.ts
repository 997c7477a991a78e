import { assertEquals, assertThrows } from "@std/assert";
import type { WeightType } from "../../src/core/model.ts";
import { Rng } from "../../src/core/rng.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { chooseMatvec, Matvec, type MatvecVariant } from "../../src/kernels/matvec.ts";
import type { MatvecForm } from "../../src/kernels/matvec_form.ts";
import { WeightMatrix } from "../../src/kernels/weights.ts";
import { matvecRef } from "../../src/ref/matvec.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";
import { onEachText } from "../_gpu.ts";
import { randomWeights, type Sample, TYPES } from "./_weights.ts";

const EPS = 1e-5;
const VARIANTS: readonly MatvecVariant[] = [{ lanes: 32, rows: 8 }, { lanes: 32, rows: 4 }, { lanes: 128, rows: 4 }];

/** Runs one product from the middle of x to the middle of out, and checks it, and that nothing else was written. */
async function check(
  gpu: Gpu,
  sample: Sample,
  form: MatvecForm,
  options: { variant?: MatvecVariant; maxBytes?: number } = {},
) {
  const { rows, cols, numbers } = sample, rng = new Rng(rows + cols), { norm, residual, gated } = form;
  const xs = normals(rng, cols + 8).fill(NaN, 0, 4).fill(NaN, cols + 4), outs = gated ? rows / 2 : rows;
  const gains = normals(rng, cols), old = normals(rng, outs, residual ? 1 : NaN);
  using weights = WeightMatrix.alloc(gpu, "weights", sample, { paired: gated, maxBytes: options.maxBytes });
  weights.write(0, sample.file);
  using x = gpu.upload("x", "f32", [cols + 8], xs), gain = gpu.upload("gain", "f32", [cols], gains);
  using out = gpu.upload("out", "f32", [outs + 3], Float32Array.from([NaN, ...old, NaN, NaN]));
  const op = await Matvec.create(gpu, sample, form, options.variant), commands = gpu.commands();
  op.encode(commands, weights, { x, gain: norm ? gain : undefined, out }, { xOffset: 4, outOffset: 1, eps: EPS });
  commands.submit();
  const actual = await gpu.readF32(out), v = xs.subarray(4, cols + 4);
  const ref = { gain: norm ? gains : undefined, eps: EPS, residual: residual ? old : undefined, gated };
  const naive = matvecRef(numbers, v, ref, Math.fround), exact = matvecRef(numbers, v, ref);
  assertAsAccurateAs(actual.subarray(1, outs + 1), naive, exact);
  assertEquals([actual[0], ...actual.subarray(outs + 1)], [NaN, NaN, NaN]);
}

Deno.test("matvec", (t) =>
  onEachText(t, async (gpu, t) => {
    for (const type of TYPES) {
      const wide = type.endsWith("K"), quantized = type.startsWith("Q");
      const shapes = wide ? [[9, 256], [16, 1280], [2, 2816]] : [[9, quantized ? 32 : 4], [30, 288], [16, 1408]];
      if (!quantized) shapes.push([5, 172]);
      for (const [rows, cols] of shapes as [number, number][]) {
        for (const variant of VARIANTS) {
          await t.step(`is as accurate as f32 for ${type} ${rows}x${cols}, ${JSON.stringify(variant)}`, async () => {
            await check(gpu, randomWeights(type, rows, cols, 3), {}, { variant });
          });
        }
      }
    }
    for (const type of ["Q8_0", "F32", "Q6_K"] as const) {
      for (const form of [{ norm: true }, { residual: true }, { gated: true }, { norm: true, gated: true }]) {
        for (const rows of [46, 96]) {
          for (const variant of [undefined, VARIANTS[0]]) { // as chosen, which on a CPU are few lanes, and as on a GPU
            await t.step(`fuses ${Object.keys(form)} with ${type}, ${rows} rows, ${variant?.lanes}`, async () => {
              await check(gpu, randomWeights(type, rows, type === "F32" ? 44 : 512, 5), form, { variant });
            });
          }
        }
      }
    }
    await t.step("takes a matrix in slices, paired and not", async () => {
      await check(gpu, randomWeights("Q8_0", 300, 96, 1), { residual: true }, { maxBytes: 128 * 96 });
      await check(gpu, randomWeights("Q6_K", 300, 256, 1), { gated: true }, { maxBytes: 128 * 208 });
    });
    await t.step("gives zeros for zeros, normalized", async () => {
      const sample = randomWeights("F16", 4, 64, 1), op = await Matvec.create(gpu, sample, { norm: true });
      using weights = WeightMatrix.alloc(gpu, "weights", sample);
      weights.write(0, sample.file);
      using x = gpu.alloc("x", "f32", [64]), gain = gpu.upload("gain", "f32", [64], new Float32Array(64).fill(1));
      using out = gpu.upload("out", "f32", [4], new Float32Array(4).fill(NaN));
      const commands = gpu.commands();
      op.encode(commands, weights, { x, gain, out }, { eps: EPS });
      commands.submit();
      assertEquals(await gpu.readF32(out), new Float32Array(4));
    });
    await t.step("refuses what does not fit, by name", async () => {
      using weights = WeightMatrix.alloc(gpu, "w", { type: "F16", rows: 8, cols: 64 });
      using x = gpu.alloc("x", "f32", [64]), out = gpu.alloc("out", "f32", [7]);
      const op = await Matvec.create(gpu, weights),
        other = await Matvec.create(gpu, { type: "F32", rows: 8, cols: 64 });
      const normed = await Matvec.create(gpu, weights, { norm: true }), commands = gpu.commands();
      assertThrows(() => op.encode(commands, weights, { x, out }), TypeError, "'out' must hold 8 numbers");
      assertThrows(() => op.encode(commands, weights, { x: out, out: x }), TypeError, "'x' must hold 64 numbers");
      assertThrows(() => op.encode(commands, weights, { x, out }, { xOffset: 2 }), RangeError, "multiple of 4");
      assertThrows(() => other.encode(commands, weights, { x, out: x }), TypeError, "is for F32 weights");
      assertThrows(() => normed.encode(commands, weights, { x, out: x }), TypeError, "takes a gain");
    });
  }));

Deno.test("matvecRef() agrees with sums by hand", () => {
  const w = [1, 2, 3, 4], x = [1, -1];
  assertEquals([...matvecRef(w, x)], [-1, -1]);
  assertEquals([...matvecRef(w, x, { residual: [10, 20] })], [9, 19]);
  assertEquals([...matvecRef(w, [3, -3], { gain: [2, 1] })], [0, 2]);
  assertEquals([...matvecRef(w, x, { gated: true })], [1 / (1 + Math.E)]);
});

Deno.test("chooseMatvec() has a load for every lane, within the device", () => {
  const chosen = (type: WeightType, rows: number, cols: number, form: MatvecForm = {}, most = 1024): number[] =>
    Object.values(chooseMatvec({ type, rows, cols }, form, most));
  assertEquals(chosen("Q8_0", 8192, 512), [32, 4]);
  assertEquals(chosen("Q8_0", 512, 1408), [64, 4]);
  assertEquals(chosen("Q4_0", 4096, 4096), [128, 4]);
  assertEquals(chosen("Q4_0", 2816, 4096, { gated: true }), [128, 8]);
  assertEquals(chosen("Q8_0", 6144, 4096, { norm: true }), [128, 8]);
  assertEquals(chosen("F16", 28672, 4096), [32, 8]);
  assertEquals(chosen("Q6_K", 128256, 4096, { norm: true }), [64, 4]);
  assertEquals(chosen("F16", 4096, 14336, {}, 64), [64, 4]);
});
