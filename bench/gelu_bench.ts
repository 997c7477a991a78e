import { Gelu } from "../src/kernels/gelu.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench();
const shape = [software ? 2 ** 20 : 2 ** 25];
using x = gpu.alloc("x", "f32", shape), y = gpu.alloc("y", "f32", shape);
for (const backward of [false, true]) {
  const op = await Gelu.create(gpu, backward), io = { x, y }, bytes = traffic(io) + (backward ? y.byteLength : 0);
  await time(`gelu count=${shape} backward=${backward}`, bytes, (commands) => op.encode(commands, io));
}
