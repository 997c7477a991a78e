import { gatedMlpShapes } from "../src/core/shapes.ts";
import { GatedMlp } from "../src/kernels/gated_mlp.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu } = await bench();
for (const [tokens, ffn] of [[1, 14336], [64, 14336], [1024, 1376], [1024, 14336]] as const) {
  const shapes = gatedMlpShapes({ tokens, ffn }), op = await GatedMlp.create(gpu);
  using gateUp = gpu.upload(
    "gate_up",
    "f32",
    shapes.gateUp,
    new Float32Array(tokens * 2 * ffn).map((_, i) => Math.sin(i)),
  );
  using out = gpu.alloc("out", "f32", shapes.out);
  const io = { gateUp, out };
  await time(`gated_mlp ${tokens}x${ffn}`, traffic(io), (commands) => op.encode(commands, io));
}
