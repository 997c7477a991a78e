import { assertEquals } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { Gpu } from "../../src/gpu/gpu.ts";
import { MatvecPlanes } from "../../src/kernels/matvec_planes.ts";
import { WeightMatrix } from "../../src/kernels/weights.ts";
import { Linear } from "../../src/llama/linear.ts";
import { matvecRef } from "../../src/ref/matvec.ts";
import { relativeError } from "../_assert.ts";
import { randomWeights } from "../kernels/_weights.ts";

Deno.test("Linear takes the kernel for any type where that in integers goes wrong on a device", async (t) => {
  using gpu = await Gpu.create();
  const sample = randomWeights("Q8_0", 2048, 2048, 3), rng = new Rng(4), { encode } = MatvecPlanes.prototype;
  const xs = Float32Array.from({ length: 2048 }, () => rng.normal()), want = matvecRef(sample.numbers, xs, {});
  using matrix = WeightMatrix.alloc(gpu, "weights", sample);
  matrix.write(0, sample.file);
  using x = gpu.upload("x", "f32", [2048], xs), out = gpu.alloc("out", "f32", [2048]);
  for (const goesWrong of [false, true]) {
    await t.step(goesWrong ? "wrong" : "right", async () => {
      let calls = 0;
      MatvecPlanes.prototype.encode = function (...of) {
        calls++;
        if (!goesWrong) encode.apply(this, of);
      };
      try {
        const linear = await Linear.create(gpu, [{ matrix, form: {} }]), commands = gpu.commands();
        linear.vector(commands, matrix, {}, { x, out });
        commands.submit();
        assertEquals(relativeError(await gpu.readF32(out), want) < 1e-6, true);
        if (gpu.subgroups && gpu.packedDot) assertEquals(calls, goesWrong ? 1 : 2); // the comparison, then the product
      } finally {
        MatvecPlanes.prototype.encode = encode;
      }
    });
  }
});
