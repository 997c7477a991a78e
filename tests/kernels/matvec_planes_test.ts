import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import type { WeightType } from "../../src/core/model.ts";
import { Rng } from "../../src/core/rng.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { Matvec } from "../../src/kernels/matvec.ts";
import type { MatvecForm } from "../../src/kernels/matvec_form.ts";
import {
  chooseMatvecPlanes,
  MatvecPlanes,
  matvecPlanesBytes,
  type MatvecPlanesVariant,
} from "../../src/kernels/matvec_planes.ts";
import { WeightMatrix } from "../../src/kernels/weights.ts";
import { dequantize } from "../../src/ref/dequantize.ts";
import { matvecRef } from "../../src/ref/matvec.ts";
import { matvecPlanesRef, planesLane, roundToPlanes } from "../../src/ref/matvec_planes.ts";
import { assertAsAccurateAs, normals, relativeError } from "../_assert.ts";
import { onEachText } from "../_gpu.ts";
import { randomWeights, type Sample } from "./_weights.ts";

const EPS = 1e-5;
/** From 64 lanes to 1024, all of them with columns and not; rows short of eight. */
const CASES: readonly (readonly [rows: number, cols: number, form: MatvecForm])[] = [
  [9, 2080, {}],
  [37, 4096, { norm: true }],
  [46, 2048, { norm: true, gated: true }],
  [20, 11008, { residual: true }],
  [46, 10240, { norm: true, gated: true }],
  [21, 16384, {}],
];
/** Columns of x that are not finite, at most one among a lane's. */
const PLACES: readonly Record<number, number>[] = [
  { 77: NaN },
  { 1500: Infinity },
  { 1500: -Infinity },
  { 5: Infinity, 999: -Infinity },
];

/** What is chosen for a tall matrix, for 3 workgroups unless said. */
function variantFor({ type, cols }: { type: WeightType; cols: number }, workgroups = 3): MatvecPlanesVariant {
  const device = { subgroups: true, packedDot: true, subgroupLanes: 32 };
  const limits = { maxComputeInvocationsPerWorkgroup: 1024, maxComputeWorkgroupStorageSize: 32768 };
  return { ...chooseMatvecPlanes({ type, rows: 4096, cols }, { ...device, limits })!, workgroups };
}

/** Whether a device has the lanes and the workgroup memory for rows of so many columns. */
function allows({ limits, subgroups }: Gpu, dims: { type: WeightType; cols: number }): boolean {
  const { lanes } = variantFor(dims);
  return lanes <= limits.maxComputeInvocationsPerWorkgroup &&
    matvecPlanesBytes(lanes, subgroups) <= limits.maxComputeWorkgroupStorageSize;
}

/** Runs one product from the middle of x to the middle of out, and checks it, and that nothing else was written. */
async function check(
  gpu: Gpu,
  sample: Sample,
  form: MatvecForm,
  options: { variant?: MatvecPlanesVariant; maxBytes?: number } = {},
) {
  const { type, rows, cols, numbers } = sample, { norm, residual, gated } = form, rng = new Rng(rows + cols);
  const xs = normals(rng, cols + 8).fill(NaN, 0, 4).fill(NaN, cols + 4), outs = gated ? rows / 2 : rows;
  const gains = normals(rng, cols), old = normals(rng, outs, residual ? 1 : NaN);
  using weights = WeightMatrix.alloc(gpu, "weights", sample, { paired: gated, maxBytes: options.maxBytes });
  weights.write(0, sample.file);
  using x = gpu.upload("x", "f32", [cols + 8], xs), gain = gpu.upload("gain", "f32", [cols], gains);
  using out = gpu.upload("out", "f32", [outs + 3], Float32Array.from([NaN, ...old, NaN, NaN]));
  const op = await MatvecPlanes.create(gpu, type, form, options.variant ?? variantFor(sample));
  const commands = gpu.commands();
  op.encode(commands, weights, { x, gain: norm ? gain : undefined, out }, { xOffset: 4, outOffset: 1, eps: EPS });
  commands.submit();
  const actual = await gpu.readF32(out), v = xs.subarray(4, cols + 4);
  const ref = { gain: norm ? gains : undefined, eps: EPS, residual: residual ? old : undefined, gated };
  const naive = matvecRef(numbers, v, ref, Math.fround), exact = matvecRef(numbers, v, ref);
  assertAsAccurateAs(actual.subarray(1, outs + 1), naive, exact);
  assertEquals([actual[0], ...actual.subarray(outs + 1)], [NaN, NaN, NaN]);
}

/** Products of x by this kernel, and by the one for any type. */
async function products(gpu: Gpu, sample: Sample, xs: Float32Array, norm = false): Promise<Float32Array[]> {
  using weights = WeightMatrix.alloc(gpu, "weights", sample);
  weights.write(0, sample.file);
  using x = gpu.upload("x", "f32", [sample.cols], xs);
  using gain = gpu.upload("gain", "f32", [sample.cols], new Float32Array(sample.cols).fill(1));
  const ops = [
    await MatvecPlanes.create(gpu, sample.type, { norm }, variantFor(sample)),
    await Matvec.create(gpu, sample, { norm }),
  ];
  const found: Float32Array[] = [];
  for (const op of ops) {
    using out = gpu.upload("out", "f32", [sample.rows], new Float32Array(sample.rows).fill(7));
    const commands = gpu.commands();
    op.encode(commands, weights, { x, gain, out }, { eps: EPS });
    commands.submit();
    found.push(await gpu.readF32(out));
  }
  return found;
}

/** Which numbers are finite. Of which kind the others are is not compared: WGSL leaves that to drivers. */
const finite = (numbers: Float32Array): boolean[] => Array.from(numbers, Number.isFinite);

Deno.test("matvec_planes", (t) =>
  onEachText(t, async (gpu, t) => {
    for (const type of ["Q8_0", "Q4_0"] as const) {
      for (const [rows, cols, form] of CASES) {
        const fused = Object.keys(form).join(" and ") || "nothing";
        // Without subgroups another kernel is chosen, and each text takes seconds to compile on a CPU.
        if (!gpu.subgroups && cols > 4096) continue;
        await t.step({
          name: `is as accurate as f32 for ${type} ${rows}x${cols}, fused with ${fused}`,
          ignore: !allows(gpu, { type, cols }),
          fn: () => check(gpu, randomWeights(type, rows, cols, 3), form),
        });
      }
      await t.step(`gives what a NaN and infinities of x give in matvec, ${type}`, async () => {
        const sample = randomWeights(type, 40, 2048, 9), xs = normals(new Rng(9), 2048);
        const unlike = (places: Record<number, number>): Float32Array => xs.map((n, c) => places[c] ?? n);
        for (const places of PLACES) {
          for (const norm of [false, true]) {
            const [actual, want] = await products(gpu, sample, unlike(places), norm);
            assertEquals(finite(actual!), finite(want!));
            assert(!finite(actual!).includes(true));
          }
        }
        const [together] = await products(gpu, sample, unlike({ 5: Infinity, 7: Infinity }));
        assert(!finite(together!).includes(true));
      });
      await t.step(`rounds x as its reference does, ${type}`, async () => {
        const sample = randomWeights(type, 40, 2048, 9), xs = normals(new Rng(9), 2048);
        const bytes = sample.file.length / (sample.rows * 2048 / 32); // of a block
        for (let c = 0; c < 2048; c += 32) { // a huge number rounds the rest of its lane's, and itself counts as zero
          xs[c] = 2 ** 24;
          for (let at = 0; at < 40 * 64; at++) sample.file[at * bytes + 2] = type === "Q8_0" ? 0 : 0x88;
        }
        const numbers = dequantize(type, sample.file, 40 * 2048),
          [actual] = await products(gpu, { ...sample, numbers }, xs);
        const exact = matvecRef(numbers, xs), rounded = matvecPlanesRef(numbers, xs, type);
        assert(relativeError(exact, rounded) > 1e-2);
        assert(relativeError(actual!, rounded) < 1e-6);
      });
    }
    await t.step("makes more rows than its workgroup memory holds at once", async () => {
      const sample = randomWeights("Q8_0", 700, 2048, 4), variant = variantFor(sample, 1);
      await check(gpu, sample, {}, { variant });
      await check(gpu, sample, { norm: true, gated: true }, { variant });
    });
    await t.step({
      name: "makes more rows than that in a workgroup of 1024 lanes",
      ignore: !allows(gpu, { type: "Q8_0", cols: 16384 }),
      fn: async () => {
        const sample = randomWeights("Q8_0", 150, 16384, 4), variant = variantFor(sample, 1);
        for (const form of [{ residual: true }, { norm: true, gated: true }]) {
          await check(gpu, sample, form, { variant });
        }
      },
    });
    await t.step("takes a matrix in slices, paired and not", async () => {
      await check(gpu, randomWeights("Q8_0", 300, 2048, 1), { residual: true }, { maxBytes: 128 * 2048 });
      await check(gpu, randomWeights("Q4_0", 300, 2048, 1), { gated: true }, { maxBytes: 128 * 1024 });
    });
    await t.step("gives zeros for zeros, normalized", async () => {
      const [actual] = await products(gpu, randomWeights("Q4_0", 5, 2048, 1), new Float32Array(2048), true);
      assertEquals(actual, new Float32Array(5));
    });
    await t.step("refuses what does not fit, by name", async () => {
      using weights = WeightMatrix.alloc(gpu, "w", { type: "Q8_0", rows: 8, cols: 2048 });
      using x = gpu.alloc("x", "f32", [2048]);
      const commands = gpu.commands(),
        variant = variantFor(weights),
        op = await MatvecPlanes.create(gpu, "Q8_0", {}, { ...variant, lanes: 64 });
      assertThrows(() => op.encode(commands, weights, { x, out: x }), RangeError, "at most 1024 columns");
      await assertRejects(() => MatvecPlanes.create(gpu, "F16", {}, variant), TypeError, "must be Q8_0 or Q4_0: F16");
    });
  }));

Deno.test("roundToPlanes() keeps 23 bits of a lane's largest number, and errs by half a step at most", () => {
  for (const type of ["Q8_0", "Q4_0"] as const) {
    const rng = new Rng(2), x = Float64Array.from(normals(rng, 3200)), rounded = roundToPlanes(x, type);
    for (let lane = 0; lane < (type === "Q8_0" ? 200 : 100); lane++) {
      const own = Array.from(x.keys()).filter((c) => planesLane(c, type) === lane);
      assertEquals(own.length, type === "Q8_0" ? 16 : 32);
      const most = Math.max(...own.map((c) => Math.abs(x[c]!)));
      for (const c of own) {
        assert(Math.abs(rounded[c]! - x[c]!) <= most * 2 ** -22 * 128 / 127);
        assert(Math.abs(rounded[c]!) / most < 2 ** 22);
      }
    }
  }
  const some = Float64Array.from({ length: 32 }, (_, c) => c % 2 * (c - 15) / 2 ** 9 * 127); // multiples of a step
  assertEquals(roundToPlanes(some, "Q8_0"), some);
});

Deno.test("chooseMatvecPlanes() has whole subgroups, a lane a load, where it is the right kernel and fits", () => {
  const device = (most: number, subgroupLanes: number, bytes: number) => ({
    ...{ subgroups: true, packedDot: true, subgroupLanes },
    limits: { maxComputeInvocationsPerWorkgroup: most, maxComputeWorkgroupStorageSize: bytes },
  });
  const chosen = (type: WeightType, rows: number, cols: number, most = 1024, subgroupLanes = 32, bytes = 16384) =>
    Object.values(chooseMatvecPlanes({ type, rows, cols }, device(most, subgroupLanes, bytes)) ?? {});
  assertEquals(chosen("Q8_0", 4096, 4096), [256, 256]);
  assertEquals(chosen("Q8_0", 4096, 8192), [512, 128]);
  assertEquals(chosen("Q8_0", 4096, 14336), [896, 128]);
  assertEquals(chosen("Q4_0", 14336, 4096), [128, 384]);
  assertEquals(chosen("Q4_0", 28672, 4096), [128, 512]);
  assertEquals(chosen("Q4_0", 4096, 14336), [448, 128]);
  assertEquals(chosen("Q8_0", 4096, 11008), [704, 128]);
  assertEquals(chosen("Q8_0", 4096, 11008, 1024, 128), [768, 128]);
  assertEquals(chosen("Q8_0", 4096, 16384, 1024, 32, 12288), [1024, 128]);
  for (const none of [chosen("Q8_0", 4096, 8192, 256), chosen("Q4_0", 4096, 32800), chosen("Q8_0", 4096, 16416)]) {
    assertEquals(none, []);
  }
  assertEquals(chosen("Q8_0", 4096, 16384, 1024, 32, 12287), []);
  for (const none of [chosen("F16", 4096, 4096), chosen("Q8_0", 2047, 4096), chosen("Q4_0", 4096, 1024)]) {
    assertEquals(none, []);
  }
  const dims = { type: "Q8_0", rows: 4096, cols: 4096 } as const;
  for (const lack of [{ subgroups: false }, { packedDot: false }]) {
    assertEquals(chooseMatvecPlanes(dims, { ...device(1024, 32, 16384), ...lack }), undefined);
  }
});
