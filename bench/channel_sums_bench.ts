import { channelSumsShapes } from "../src/core/shapes.ts";
import { ChannelSums, chooseChannelChunk } from "../src/kernels/channel_sums.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench();
const rows = software ? 4096 : 131072, chunk = chooseChannelChunk(rows);
const shapes = channelSumsShapes(rows, 256, Math.ceil(rows / chunk));
using values = gpu.alloc("values", "f32", shapes.values), out = gpu.alloc("out", "f32", shapes.out);
const op = await ChannelSums.create(gpu), io = { values, out };
await time(`channel_sums rows=${rows}`, traffic(io), (commands) => op.encode(commands, io, chunk));
