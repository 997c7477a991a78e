import { assertEquals, assertThrows } from "@std/assert";
import { BLOCKS, type WeightType } from "../../src/core/model.ts";
import { Rng } from "../../src/core/rng.ts";
import { isPacked, repackRows, weightBytes, weightLayout } from "../../src/core/weight_layout.ts";

const TYPES = Object.keys(BLOCKS) as WeightType[];

function repacked(type: WeightType, rows: number, cols: number, file: Uint8Array) {
  const bytes = weightBytes(type, rows, cols), data = new Uint8Array(bytes.data).fill(0xee);
  const scales = new Uint16Array(bytes.scales / 2);
  repackRows(type, cols, file, data, scales);
  return { data, scales };
}

Deno.test("weightLayout() says what a row of every type takes", () => {
  const sizes = TYPES.map((type) => [type, Object.values(weightLayout(type, 512))]);
  assertEquals(Object.fromEntries(sizes), {
    F32: [32, 2048, 2048, 0],
    F16: [32, 1024, 1024, 0],
    BF16: [32, 1024, 1024, 0],
    Q8_0: [32, 544, 512, 16],
    Q4_0: [32, 288, 256, 16],
    Q4_K: [32, 288, 288, 0],
    Q6_K: [32, 420, 416, 2],
  });
  assertEquals(Object.values(weightLayout("F16", 20)), [2, 40, 64, 0]);
});

Deno.test("weightLayout() refuses rows that are not whole blocks", () => {
  assertThrows(() => weightLayout("Q8_0", 48), RangeError, "multiple of 32 columns: 48");
  assertThrows(() => weightLayout("Q6_K", 128), RangeError, "multiple of 256");
  assertThrows(() => weightLayout("F32", 6), RangeError, "multiple of 4");
  assertThrows(() => weightLayout("F32", 0), RangeError, "multiple of 4");
});

Deno.test("repackRows() takes blocks apart, at any alignment", () => {
  const rng = new Rng(1), cols = 512, rows = 3;
  for (
    const [type, data, scale, dataAt, scaleAt] of [["Q8_0", 32, 2, 2, 0], ["Q4_0", 16, 2, 2, 0], [
      "Q6_K",
      208,
      2,
      0,
      208,
    ]] as const
  ) {
    const { weights, bytes } = BLOCKS[type], blocks = rows * cols / weights;
    const memory = Uint8Array.from({ length: blocks * bytes + 1 }, () => rng.below(256)), file = memory.subarray(1);
    const out = repacked(type, rows, cols, file), halves = new Uint8Array(out.scales.buffer);
    for (let b = 0; b < blocks; b++) {
      const block = file.subarray(b * bytes, (b + 1) * bytes);
      assertEquals(out.data.subarray(b * data, (b + 1) * data), block.subarray(dataAt, dataAt + data));
      assertEquals(halves.subarray(2 * b, 2 * b + 2), block.subarray(scaleAt, scaleAt + scale));
    }
  }
});

Deno.test("repackRows() pads rows of plain numbers with zeros", () => {
  const { data } = repacked("F16", 2, 4, Uint8Array.from({ length: 16 }, (_, i) => i + 1));
  assertEquals([...data.subarray(0, 10)], [1, 2, 3, 4, 5, 6, 7, 8, 0, 0]);
  assertEquals([...data.subarray(32, 42)], [9, 10, 11, 12, 13, 14, 15, 16, 0, 0]);
  assertEquals(data.subarray(40).every((byte) => byte === 0), true);
});

Deno.test("isPacked() is true where repackRows() only copies", () => {
  assertEquals(TYPES.filter((type) => isPacked(type, 256)), ["F32", "F16", "BF16", "Q4_K"]);
  assertEquals(isPacked("F16", 20), false);
});
