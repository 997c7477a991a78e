import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { FileFormatError } from "../../src/core/errors.ts";
import type { LlamaConfig, RopeScaling } from "../../src/core/model.ts";
import { ropeFrequencies } from "../../src/core/rope.ts";

function frequencies(headDim: number, ropeTheta: number, ropeScaling: RopeScaling | null, factors?: number[]) {
  return ropeFrequencies({ headDim, ropeTheta, ropeScaling } as LlamaConfig, factors);
}

const LLAMA_3_1: RopeScaling = {
  type: "llama3",
  factor: 8,
  lowFreqFactor: 1,
  highFreqFactor: 4,
  originalContext: 8192,
};

Deno.test("ropeFrequencies() are powers of the base", () => {
  assertEquals([...frequencies(8, 10_000, null)], [1, 0.1, 0.01, 0.001]);
  assertEquals([...frequencies(8, 10_000, { type: "linear", factor: 4 })], [0.25, 0.025, 0.0025, 0.00025]);
});

Deno.test("ropeFrequencies() stretches LLaMA 3.1's long waves as transformers does", () => {
  const out = frequencies(128, 500_000, LLAMA_3_1);
  // Its formula, evaluated apart: a wave of pair d has 2 pi 500000^(d/64) positions. Below 2048 it is kept, above 8192 divided by 8.
  const kept = { 0: 1, 1: 0.8146172338565447, 28: 0.0032114459947525913 };
  const mixed = { 29: 0.002166570763503359, 30: 0.0013718935677611381, 33: 0.00031269375038406517 };
  const divided = { 35: 9.556212353964683e-5, 63: 3.068925988914511e-7 };
  for (const [d, theta] of Object.entries({ ...kept, ...mixed, ...divided })) {
    assertAlmostEquals(out[Number(d)]! / theta, 1, 1e-9, `pair ${d}`);
  }
});

Deno.test("ropeFrequencies() divides by the factors of a file", () => {
  assertEquals([...frequencies(8, 10_000, null, [1, 2, 4, 8])], [1, 0.05, 0.0025, 0.000125]);
  for (const factor of [0, -1, NaN, Infinity]) {
    assertThrows(() => frequencies(8, 10_000, null, [1, 2, factor, 8]), FileFormatError, `positive numbers: one is`);
  }
});
