import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import { fromF16Array, toF16Array } from "../../src/core/f16.ts";
import { Rng } from "../../src/core/rng.ts";
import type { CacheRounding } from "../../src/core/rounding.ts";
import { cacheRoundShapes } from "../../src/core/shapes.ts";
import { BASELINES } from "../../src/eval/baselines.ts";
import type { Gpu } from "../../src/gpu/gpu.ts";
import { CacheRound } from "../../src/kernels/cache_round.ts";
import { cacheRoundRef, hadamard } from "../../src/ref/cache_round.ts";
import { relativeError } from "../_assert.ts";
import { onEachText } from "../_gpu.ts";

function gaussian(seed: number, count: number): Float32Array {
  const rng = new Rng(seed);
  return Float32Array.from({ length: count }, () => rng.normal() * (rng.below(97) ? 1 : 4));
}

async function run(gpu: Gpu, x: Float32Array, kvHeads: number, headDim: number, rounding: CacheRounding) {
  const shapes = cacheRoundShapes({ kvHeads, headDim, capacity: x.length / kvHeads / headDim });
  using source = gpu.upload("source", "u32", shapes.source, toF16Array(x));
  using rounded = gpu.upload("rounded", "u32", shapes.rounded, new Uint32Array(x.length / 2).fill(0x7e007e00));
  const op = await CacheRound.create(gpu, headDim, rounding), commands = gpu.commands();
  op.encode(commands, { source, rounded });
  commands.submit();
  return fromF16Array(new Uint16Array(await gpu.read(rounded)));
}

Deno.test("cache_round", (t) =>
  onEachText(t, async (gpu, t) => {
    if (gpu.subgroups) return; // the kernel has one text
    const usual = [70, 4, 64] as const, others = [[33, 1, 128], [64, 2, 32], [1, 1, 256]] as const;
    for (const [i, { name, keys, values }] of BASELINES.entries()) { // each kernel takes seconds to compile on a CPU
      for (const [tokens, kvHeads, headDim] of [usual, others[i % 3]!]) {
        await t.step(`${name} leaves what its definition does at ${tokens}x${kvHeads}x${headDim}`, async () => {
          for (const rounding of [keys, { ...values, seed: 3 }]) {
            const x = fromF16Array(toF16Array(gaussian(5 + headDim, tokens * kvHeads * headDim)));
            const actual = await run(gpu, x, kvHeads, headDim, rounding);
            const exact = cacheRoundRef(x, { tokens, headDim }, rounding);
            // A number within a rounding error of the border of two levels may fall to either; nothing else may differ.
            const far = exact.filter((v, i) => !(Math.abs(actual[i]! - v) <= 2 ** -10 * Math.abs(v) + 2 ** -12)).length;
            const spread = rounding.codec === "lloyd" || rounding.hadamard ? headDim : 1; // a flip moves a whole head
            assert(far <= Math.ceil(1e-3 * x.length) * spread, `${far} of ${x.length} numbers differ`);
            const [error, wanted] = [actual, exact].map((v) => relativeError(v!, x) ** 2);
            assert(Math.abs(error! / wanted! - 1) < 0.02 || wanted! < 1e-6, `NMSE ${error} for ${wanted}`);
          }
        });
      }
    }
    await t.step("gives zeros for zeros, and holds a constant", async () => {
      for (const { keys, values } of BASELINES) {
        for (const rounding of [keys, values]) {
          assertEquals((await run(gpu, new Float32Array(64 * 64), 1, 64, rounding)).every((v) => v === 0), true);
        }
      }
      const ones = new Float32Array(64 * 64).fill(1.5);
      assertEquals(await run(gpu, ones, 1, 64, { codec: "range over tokens", levels: 2 }), ones);
    });
    await t.step("refuses a head dimension that a codec is not defined for", async () => {
      await assertRejects(() => CacheRound.create(gpu, 80, { codec: "q8_0" }), RangeError, "multiple of 32: it is 80");
      await assertRejects(() => CacheRound.create(gpu, 96, { codec: "lloyd" }), RangeError, "power of two");
    });
  }));

const dims = { tokens: 64, headDim: 64 };

Deno.test("cacheRoundRef() leaves the error that its bits allow, no more and no less", () => {
  // NMSE of a normal source: Lloyd-Max 0.3634 and 0.1175 (theory); the others bracket what blocks of 32 give.
  const bounds: Record<string, [number, number]> = {
    ...{ "q8_0": [1e-5, 8e-5], "q4_0": [4e-3, 1.2e-2], "q8_0+hadamard": [1e-5, 8e-5], "q4_0+hadamard": [4e-3, 1.2e-2] },
    ...{ kivi4: [4e-3, 1.2e-2], kivi2: [0.1, 0.25], kivi1: [0.9, 3.5], turbo2: [0.105, 0.13], turbo1: [0.34, 0.385] },
  };
  const rng = new Rng(5), x = Float32Array.from({ length: 4 * 64 * 64 }, () => rng.normal());
  for (const { name, keys, values } of BASELINES) {
    const [least, most] = bounds[name]!;
    for (const rounding of [keys, values]) {
      const nmse = relativeError(cacheRoundRef(x, dims, rounding), x) ** 2;
      assert(nmse >= least && nmse <= most, `${name}: NMSE ${nmse} outside [${least}, ${most}]`);
    }
  }
});

Deno.test("cacheRoundRef() gives llama.cpp's numbers on a block worked by hand", () => {
  const x = new Float32Array(32), one = { tokens: 1, headDim: 32 };
  x.set([-8, 4, 1.4, 0.6]);
  const q4 = cacheRoundRef(x, one, { codec: "q4_0" }); // scale 1: -8 → 0, others + 8.5 rounded down
  assertEquals([...q4.subarray(0, 5)], [-8, 4, 1, 1, 0]);
  const q8 = cacheRoundRef(x, one, { codec: "q8_0" }), scale = 0.0629882812; // f16(8/127)
  [-127, 64, 22, 10].forEach((q, i) => assertAlmostEquals(q8[i]!, q * scale, 1e-6));
});

Deno.test("cacheRoundRef() rounds keys by channel over whole groups of 32 tokens, and keeps the rest", () => {
  const rng = new Rng(1), x = Float32Array.from({ length: 40 * 64 }, () => rng.normal());
  x.forEach((_, i) => x[i]! *= i % 64 === 3 ? 100 : 1); // one loud channel does not disturb its neighbours
  const y = cacheRoundRef(x, { tokens: 40, headDim: 64 }, { codec: "range over tokens", levels: 4 });
  assertEquals(Float32Array.from(y.subarray(32 * 64)), x.subarray(32 * 64));
  const quiet = (v: ArrayLike<number>) => Array.from({ length: 32 * 64 }, (_, i) => i % 64 === 3 ? 0 : v[i]!);
  const nmse = relativeError(quiet(y), quiet(x)) ** 2;
  assert(nmse > 0.05 && nmse < 0.25, `${nmse}`);
});

Deno.test("hadamard() is its own inverse and keeps lengths", () => {
  const x = Float64Array.from(gaussian(2, 64)), y = x.slice();
  hadamard(y, 0, 64);
  assertAlmostEquals(Math.hypot(...y), Math.hypot(...x), 1e-9);
  hadamard(y, 0, 64);
  assert(relativeError(y, x) < 1e-12);
});

Deno.test("bits count scales", () => {
  const bits = (name: string) => BASELINES.find((b) => b.name === name)!.bits(64);
  assertEquals(["q8_0", "q4_0", "kivi2", "turbo2", "turbo1"].map(bits), [8.5, 4.5, 3, 2.25, 1.25]);
});
