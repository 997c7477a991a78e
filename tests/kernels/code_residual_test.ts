import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { fromF16Array, toF16Array } from "../../src/core/f16.ts";
import { BLOCK, blocks } from "../../src/core/pack.ts";
import { Rng } from "../../src/core/rng.ts";
import { ropeTable, ropeTableRows } from "../../src/core/rope_table.ts";
import { residualShape } from "../../src/core/shapes.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { CodeResidual, type ResidualSpan, type VectorForm } from "../../src/kernels/code_residual.ts";
import { codeResidualRef, residualAt } from "../../src/ref/code_residual.ts";
import { assertAsAccurateAs, normals } from "../_assert.ts";

const frequencies = (pairs: number): Float64Array =>
  Float64Array.from({ length: pairs }, (_, d) => 500 ** (-d / pairs));

/** Rows `[T][K·D]` as an exact cache of `capacity` slots `[K][capacity][D]` has them, from slot `first` on. */
function cached(rows: Float32Array, kvHeads: number, headDim: number, capacity: number, first: number): Uint16Array {
  const out = new Float32Array(kvHeads * capacity * headDim).fill(9);
  rows.forEach((x, i) => {
    const t = Math.floor(i / headDim / kvHeads), head = Math.floor(i / headDim) % kvHeads;
    out[(head * capacity + first + t) * headDim + i % headDim] = x;
  });
  return toF16Array(out);
}

interface Case {
  readonly kvHeads: number;
  readonly headDim: number;
  readonly form: VectorForm;
  readonly span: ResidualSpan;
}

async function run(gpu: Gpu, { kvHeads, headDim, form, span }: Case, rows: Float32Array, heads = kvHeads) {
  const { tokens, first = 0, position = 0, offset = 0, block = 0, scale = 0 } = span, capacity = first + tokens + 3;
  const stride = kvHeads * headDim + offset + 4, padded = new Float32Array((first + tokens) * stride).fill(NaN);
  for (let t = 0; t < tokens; t++) {
    padded.set(rows.subarray(t * kvHeads * headDim, (t + 1) * kvHeads * headDim), (first + t) * stride + offset);
  }
  using source = form === "rows"
    ? gpu.upload("source", "f32", [first + tokens, stride], padded)
    : gpu.upload("source", "u32", [kvHeads, capacity, headDim / 2], cached(rows, kvHeads, headDim, capacity, first));
  const table = ropeTable(frequencies(headDim / 2), position + tokens), all = (block + blocks(tokens)) * BLOCK;
  using rope = gpu.upload("rope", "f32", [ropeTableRows(position + tokens), headDim / 2, 2], table);
  const shape = residualShape({ headDim, heads, tokens: all }), length = shape.reduce((a, b) => a * b);
  using residual = gpu.upload("residual", "f32", shape, new Float32Array(length).fill(NaN));
  using scales = gpu.alloc("scales", "f16", [scale + blocks(tokens) * BLOCK]);
  const op = await CodeResidual.create(gpu, { kvHeads, headDim }, form), commands = gpu.commands();
  op.encode(commands, { source, ropeTable: rope, scales, residual }, span);
  commands.submit();
  return { residual: await gpu.readF32(residual), scales: fromF16Array(new Uint16Array(await gpu.read(scales))), all };
}

Deno.test("code_residual", async (t) => {
  using gpu = await Gpu.create();
  const cases: readonly Case[] = [
    { kvHeads: 1, headDim: 8, form: "rows", span: { tokens: 1 } },
    { kvHeads: 3, headDim: 80, form: "rows", span: { tokens: 33, first: 5, offset: 12, block: 2, scale: 64 } },
    { kvHeads: 2, headDim: 64, form: "cache", span: { tokens: 64, first: 7 } },
    { kvHeads: 4, headDim: 128, form: "rotated cache", span: { tokens: 41, first: 3, position: 100_000, block: 1 } },
  ];
  for (const one of cases) {
    await t.step(`is as accurate as f32: ${JSON.stringify(one)}`, async () => {
      const { kvHeads, headDim, form, span } = one, { tokens, position = 0, block = 0, scale = 0 } = span;
      const rows = normals(new Rng(31), tokens * kvHeads * headDim), theta = frequencies(headDim / 2);
      const held = form === "rows" ? rows : fromF16Array(toF16Array(rows));
      const undo = form === "rotated cache" ? (t: number, d: number) => (position + t) * theta[d]! : undefined;
      const exact = codeResidualRef(held, one, undo), naive = codeResidualRef(held, one, undo, Math.fround);
      const got = await run(gpu, one, rows), own: number[][] = [[], [], []];
      for (let t = 0; t < tokens; t++) {
        // half a unit of half precision either way where the root is between two of its numbers
        assertAlmostEquals(got.scales[scale + t]!, exact.scales[t]!, 2 ** -10 * exact.scales[t]!);
        const ratio = exact.scales[t]! / got.scales[scale + t]!;
        for (let head = 0; head < kvHeads; head++) {
          for (let c = 0; c < headDim; c++) {
            const at = residualAt(headDim, tokens, head, t, c);
            own[0]!.push(got.residual[residualAt(headDim, got.all, head, block * BLOCK + t, c)]!);
            own[1]!.push(naive.residual[at]! * ratio);
            own[2]!.push(exact.residual[at]! * ratio);
          }
        }
      }
      assertAsAccurateAs(own[0]!, own[1]!, own[2]!);
      const last = residualAt(headDim, got.all, 0, got.all - 1, 0);
      if (tokens % BLOCK) assertAlmostEquals(got.residual[last]!, 0, 0); // past the last token
    });
  }
  await t.step("does some heads with the scale of all", async () => {
    const one: Case = { kvHeads: 4, headDim: 16, form: "rows", span: { tokens: 20, head: 1 } };
    const rows = normals(new Rng(32), 20 * 64), whole = await run(gpu, { ...one, span: { tokens: 20 } }, rows);
    const { residual, scales } = await run(gpu, one, rows, 2);
    assertEquals(scales, whole.scales);
    assertEquals(residual, whole.residual.subarray(16 * BLOCK, 48 * BLOCK));
  });
  await t.step("gives zeros for a token of zeros, and holds one that is too large for its scale", async () => {
    const one: Case = { kvHeads: 1, headDim: 8, form: "rows", span: { tokens: 2 } };
    const { residual, scales } = await run(gpu, one, Float32Array.from({ length: 16 }, (_, i) => i < 8 ? 0 : 1e5));
    assertEquals([...scales.subarray(0, 2)], [0, 65504]);
    assert(residual.every((x, i) => i % BLOCK === 1 ? Math.abs(x - 1e5 / 65504) < 1e-6 : x === 0));
  });
  await t.step("refuses tokens that do not fit", async () => {
    const op = await CodeResidual.create(gpu, { kvHeads: 1, headDim: 8 }, "rows");
    const source = gpu.alloc("source", "f32", [40, 8]), residual = gpu.alloc("residual", "f32", [1, 1, 8, 32]);
    const io = { source, ropeTable: source, scales: gpu.alloc("scales", "f16", [32]), residual };
    assertThrows(() => op.encode(gpu.commands(), io, { tokens: 33 }), RangeError, "33 tokens from slot 0 of 40");
    assertThrows(() => op.encode(gpu.commands(), io, { tokens: 8, first: 33 }), RangeError, "slot 33 of 40");
    assertThrows(() => op.encode(gpu.commands(), { ...io, residual: source }, { tokens: 1 }), TypeError, "'residual'");
  });
});
