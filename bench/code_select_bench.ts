import { codeSelectShapes } from "../src/core/shapes.ts";
import { CodeSelect } from "../src/kernels/code_select.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu } = await bench(),
  tokens = 4096,
  dims = { heads: 4, headDim: 64, tokens, capacity: tokens, scales: tokens };
const shapes = codeSelectShapes(dims), alloc = (name: keyof typeof shapes) => gpu.alloc(name, "f32", shapes[name]);
using residual = alloc("residual"), thresholds = alloc("thresholds"), picked = alloc("picked");
using fromCache = alloc("fromCache"), toCache = alloc("toCache"), scales = gpu.alloc("scales", "f16", shapes.scales);
const op = await CodeSelect.create(gpu, dims.headDim),
  io = { residual, scales, thresholds, fromCache, toCache, picked };
await time("code_select 4 heads of 64, none picked", traffic(io), (c) => op.encode(c, io));
