/**
 * What every bench shares: verify nothing here, time on the GPU, print time, bytes, GB/s and the share of a copy
 * measured in the same run, and one JSON line a case for the record (`BENCH_JSON=file` appends it there).
 */
import type { Commands } from "../src/gpu/commands.ts";
import { Gpu } from "../src/gpu/gpu.ts";
import type { Tensor } from "../src/gpu/tensor.ts";
import { Copy } from "../src/kernels/copy.ts";
import { gpuTimes } from "../src/gpu/timing.ts";
import { Clock } from "./_clock.ts";

/** Bytes that a bench's rotated buffers should total, so that no repetition finds its data in a cache. */
export const ROTATE_BYTES = 512 * 2 ** 20;

/** What {@linkcode bench} gives. */
interface Bench {
  readonly gpu: Gpu;
  readonly copyGBps: number;
  /** Waits until the GPU runs at full clock again: one that idled for seconds takes a second of work to get there. */
  readonly ready: () => Promise<void>;
  /** Whether the GPU is a CPU, for which sizes are small and repetitions few. */
  readonly software: boolean;
}

let shared: Promise<Bench> | undefined;

/** The device, and the rate of a large copy on it (bytes read plus bytes written), measured once. */
export function bench(): Promise<Bench> {
  return shared ??= (async () => {
    const gpu = await Gpu.create();
    // A device left open can crash the process as it ends (lavapipe).
    globalThis.addEventListener("unload", () => gpu[Symbol.dispose]());
    const software = /llvmpipe|swiftshader/i.test(gpu.description), op = await Copy.create(gpu), clock = new Clock(gpu);
    const bytes = Math.min(gpu.maxBytes, software ? 2 ** 24 : 2 ** 30);
    using source = gpu.alloc("copy source", "u32", [bytes / 4]), copied = gpu.alloc("copied", "u32", [bytes / 4]);
    const load = gpu.alloc("load", "u32", [2 ** 22]), loaded = gpu.alloc("loaded", "u32", [2 ** 22]);
    const work = async (): Promise<number> => {
      const commands = gpu.commands("load");
      for (let i = 0; i < 400; i++) op.encode(commands, { source: load, copied: loaded });
      commands.submit();
      await gpu.idle();
      return await clock.rate();
    };
    let full = 0;
    for (let steady = performance.now(); !software && performance.now() - steady < 600;) {
      const rate = await work();
      if (rate > 1.01 * full) [full, steady] = [rate, performance.now()];
    }
    const ready = async (): Promise<void> => {
      for (let i = 0; !software && i < 500 && await clock.rate() < 0.97 * full; i++) await work();
    };
    const times = await gpuTimes(gpu, 10, (commands) => op.encode(commands, { source, copied }));
    const copyGBps = 2 * bytes / times.toSorted()[5]! / 1e9;
    console.log(`# ${gpu.description}; copy ${copyGBps.toFixed(0)} GB/s`);
    return { gpu, copyGBps, ready, software };
  })();
}

/** Bytes of tensors that a kernel reads or writes once. */
export function traffic(io: Readonly<Record<string, Tensor>>): number {
  return Object.values(io).reduce((sum, tensor) => sum + tensor.byteLength, 0);
}

/** How one case went. */
export interface Timing {
  readonly medianUs: number;
  readonly p10Us: number;
  readonly GBps: number;
  readonly copyShare: number;
}

/**
 * Times `encode` and prints a row. `bytes` is what one run must move; `encode` gets the repetition's number to rotate
 * its buffers by; `flops`, where given, adds a rate.
 */
export async function time(
  name: string,
  bytes: number,
  encode: (commands: Commands, i: number) => void,
  { repetitions = 30, flops = 0 }: { repetitions?: number; flops?: number } = {},
): Promise<Timing> {
  const { gpu, copyGBps, ready, software } = await bench();
  await ready();
  await gpuTimes(gpu, software ? 1 : 3, encode);
  const times = (await gpuTimes(gpu, software ? Math.min(3, repetitions) : repetitions, encode)).toSorted();
  const median = times[times.length >> 1]!, p10 = times[Math.floor(times.length / 10)]!;
  const row = {
    medianUs: median * 1e6,
    p10Us: p10 * 1e6,
    GBps: bytes / median / 1e9,
    copyShare: bytes / median / 1e9 / copyGBps,
  };
  const rate = flops ? ` ${(flops / median / 1e12).toFixed(2).padStart(7)} TFLOP/s` : "";
  console.log(
    `${name.padEnd(52)} ${row.medianUs.toFixed(1).padStart(10)} us ${row.GBps.toFixed(1).padStart(8)} GB/s ` +
      `${(100 * row.copyShare).toFixed(0).padStart(4)} % of copy${rate}`,
  );
  const record = { name, adapter: gpu.description, copyGBps, bytes, flops, ...row };
  const path = Deno.env.get("BENCH_JSON");
  if (path) await Deno.writeTextFile(path, JSON.stringify(record) + "\n", { append: true });
  return row;
}
