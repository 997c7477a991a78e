import { matmulShapes } from "../src/core/shapes.ts";
import { MatmulTexels } from "../src/kernels/matmul_texels.ts";
import { bench, time } from "./_harness.ts";
import { randomMatrix } from "./_weights.ts";

const { gpu, software } = await bench();
const shapes = [[1, 512, 2816], [64, 512, 2816], [1, 1408, 512], [64, 1408, 512], [1, 512, 8192]] as const;
for (const [tokens, cols, rows] of software ? shapes : []) { // a GPU has its weights in buffers
  for (const type of ["Q8_0", "F16", "Q4_0", "Q4_K", "Q6_K"] as const) {
    if (type.endsWith("K") && cols % 256 !== 0) continue;
    using weights = randomMatrix(gpu, { type, rows, cols }, { texels: true });
    const shape = matmulShapes({ type, rows, cols, tokens });
    using x = gpu.alloc("x", "f32", shape.x), out = gpu.alloc("out", "f32", shape.out);
    const op = await MatmulTexels.create(gpu, weights), flops = 2 * tokens * rows * cols;
    await time(`matmul_texels ${type} ${tokens}x${cols} by ${rows}`, weights.bytes, (commands) => {
      op.encode(commands, weights, { x, out });
    }, { flops });
  }
}
