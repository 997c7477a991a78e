import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { BASELINES, hadamard } from "../../src/eval/baselines.ts";
import { relativeError } from "../_assert.ts";

const find = (name: string) => BASELINES.find((b) => b.name === name)!;
const dims = { tokens: 64, kvHeads: 4, headDim: 64 };

function gaussian(seed: number): Float32Array {
  const rng = new Rng(seed);
  return Float32Array.from({ length: dims.tokens * dims.kvHeads * dims.headDim }, () => rng.normal());
}

Deno.test("baselines leave the error that their bits allow, no more and no less", () => {
  // NMSE of a normal source: Lloyd-Max 0.3634 and 0.1175 (theory); the others bracket what blocks of 32 give.
  const bounds: Record<string, [number, number]> = {
    q8_0: [1e-5, 8e-5],
    q4_0: [4e-3, 1.2e-2],
    "q8_0+hadamard": [1e-5, 8e-5],
    "q4_0+hadamard": [4e-3, 1.2e-2],
    kivi4: [4e-3, 1.2e-2],
    kivi2: [0.1, 0.25],
    kivi1: [0.9, 3.5],
    turbo2: [0.105, 0.13],
    turbo1: [0.34, 0.385],
    fp16: [0, 0],
  }; // deno-fmt-ignore-line
  for (const baseline of BASELINES) {
    const [least, most] = bounds[baseline.name]!;
    for (const quantize of [baseline.keys, baseline.values]) {
      const x = gaussian(5), y = x.slice();
      quantize(y, dims);
      const nmse = relativeError(y, x) ** 2;
      assert(nmse >= least && nmse <= most, `${baseline.name}: NMSE ${nmse} outside [${least}, ${most}]`);
    }
  }
});

Deno.test("bits count scales", () => {
  assertEquals(["q8_0", "q4_0", "kivi2", "turbo2", "turbo1"].map((name) => find(name).bits(64)), [
    8.5,
    4.5,
    3,
    2.25,
    1.25,
  ]);
});

Deno.test("q4_0 and q8_0 give llama.cpp's numbers on a block worked by hand", () => {
  const x = new Float32Array(32);
  x.set([-8, 4, 1.4, 0.6]);
  const q4 = x.slice();
  find("q4_0").keys(q4, dims); // scale 1: -8 → 0, others + 8.5 truncated
  assertEquals([...q4.subarray(0, 5)], [-8, 4, 1, 1, 0]);
  const q8 = x.slice();
  find("q8_0").keys(q8, dims);
  const scale = 0.0629882812; // f16(8/127)
  [-127, 64, 22, 10].forEach((q, i) => assertAlmostEquals(q8[i]!, q * scale, 1e-6));
});

Deno.test("kivi keeps an incomplete last group of keys exact", () => {
  const rng = new Rng(1), x = Float32Array.from({ length: 40 * 4 * 64 }, () => rng.normal()), y = x.slice();
  find("kivi2").keys(y, { ...dims, tokens: 40 });
  assertEquals(y.subarray(32 * 256), x.subarray(32 * 256));
  assert(relativeError(y.subarray(0, 32 * 256), x.subarray(0, 32 * 256)) > 0.2);
});

Deno.test("hadamard() is its own inverse and keeps lengths", () => {
  const x = gaussian(2).subarray(0, 64), y = x.slice();
  hadamard(y, 0, 64);
  assertAlmostEquals(Math.hypot(...y), Math.hypot(...x), 1e-4);
  hadamard(y, 0, 64);
  assert(relativeError(y, x) < 1e-6);
});
