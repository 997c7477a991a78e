import { Copy } from "../src/kernels/copy.ts";
import { bench, time, traffic } from "./_harness.ts";

const { gpu, software } = await bench(), op = await Copy.create(gpu);
const most = software ? 24 : 30;
for (let log = 20; log <= most; log += 5) {
  using source = gpu.alloc("source", "u32", [2 ** log / 4]), copied = gpu.alloc("copied", "u32", [2 ** log / 4]);
  const io = { source, copied };
  await time(`copy of ${2 ** log} bytes`, traffic(io), (commands) => op.encode(commands, io));
}
