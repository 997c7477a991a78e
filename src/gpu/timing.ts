/**
 * GPU time of dispatches, by timestamps where the device has them.
 *
 * @module
 */
import { type Gpu, Staging } from "./gpu.ts";
import type { Commands } from "./commands.ts";
import { Tensor } from "./tensor.ts";

/**
 * Seconds that each of `repetitions` runs of `encode` takes on the GPU, in order; `encode` gets the repetition's number
 * and may rotate its buffers by it. Each run is a compute pass of its own in one submit a batch.
 */
export async function gpuTimes(
  gpu: Gpu,
  repetitions: number,
  encode: (commands: Commands, i: number) => void,
): Promise<Float64Array> {
  if (!gpu.timestamps) return await wallTimes(gpu, repetitions, encode);
  const { device } = gpu, count = 2 * repetitions;
  const querySet = device.createQuerySet({ type: "timestamp", count });
  const buffer = device.createBuffer({
    size: 8 * count,
    usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
  });
  using staging = new Staging(gpu, 8 * count);
  const commands = gpu.commands("timed");
  for (let i = 0; i < repetitions; i++) {
    commands.stamp({ querySet, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 });
    encode(commands, i);
  }
  commands.stamp(undefined);
  commands.encoder.resolveQuerySet(querySet, 0, count, buffer, 0);
  staging.copy(commands, new Tensor("timestamps", "u32", [2 * count], buffer));
  commands.submit();
  const stamps = new BigUint64Array(await staging.read());
  buffer.destroy();
  querySet.destroy();
  return Float64Array.from({ length: repetitions }, (_, i) => Number(stamps[2 * i + 1]! - stamps[2 * i]!) / 1e9);
}

async function wallTimes(
  gpu: Gpu,
  repetitions: number,
  encode: (commands: Commands, i: number) => void,
): Promise<Float64Array> {
  const times = new Float64Array(repetitions);
  using fence = gpu.alloc("fence", "u32", [4]);
  using staging = new Staging(gpu, 16);
  for (let i = 0; i < repetitions; i++) {
    const commands = gpu.commands("timed"), start = performance.now();
    encode(commands, i);
    staging.copy(commands, fence);
    commands.submit();
    await staging.read();
    times[i] = (performance.now() - start) / 1e3;
  }
  return times;
}
