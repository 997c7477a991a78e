/**
 * Where a decode step's time goes: every dispatch timed in a pass of its own and summed by kernel, beside the whole step
 * in one pass. Passes of their own cost a few microseconds each, so the sum exceeds the whole.
 */
import { Commands } from "../src/gpu/commands.ts";
import { gpuTimes } from "../src/gpu/timing.ts";
import { type Gpu, Staging } from "../src/gpu/gpu.ts";
import { Tensor } from "../src/gpu/tensor.ts";
import { bench } from "./_harness.ts";
import { type BenchModel, bundled, deepen, shaped8B } from "./_model.ts";

const { gpu, ready, software } = await bench();

/** Commands whose every dispatch is stamped. */
class Stamped extends Commands {
  readonly labels: string[] = [];

  constructor(gpu: Gpu, readonly querySet: GPUQuerySet) {
    super(gpu, "stamped");
  }

  override get pass(): GPUComputePassEncoder {
    const at = 2 * this.labels.length;
    this.labels.push("");
    this.stamp({ querySet: this.querySet, beginningOfPassWriteIndex: at, endOfPassWriteIndex: at + 1 });
    const pass = super.pass, setPipeline = pass.setPipeline.bind(pass);
    pass.setPipeline = (pipeline) => {
      this.labels[at / 2] = pipeline.label;
      setPipeline(pipeline);
    };
    return pass;
  }
}

async function profile(gpu: Gpu, encode: (commands: Commands) => void): Promise<Map<string, number[]>> {
  const count = 4096, querySet = gpu.device.createQuerySet({ type: "timestamp", count });
  const usage = GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC;
  const buffer = gpu.device.createBuffer({ size: 8 * count, usage }), commands = new Stamped(gpu, querySet);
  using staging = new Staging(gpu, 8 * count);
  encode(commands);
  const { labels } = commands;
  commands.stamp(undefined);
  commands.encoder.resolveQuerySet(querySet, 0, 2 * labels.length, buffer, 0);
  staging.copy(commands, new Tensor("stamps", "u32", [2 * count], buffer));
  commands.submit();
  const stamps = new BigUint64Array(await staging.read()), times = new Map<string, number[]>();
  labels.forEach((label, i) => {
    const own = times.get(label) ?? [];
    own.push(Number(stamps[2 * i + 1]! - stamps[2 * i]!) / 1e3);
    times.set(label, own);
  });
  buffer.destroy();
  querySet.destroy();
  return times;
}

async function step({ name, engine: { decoder }, cache }: BenchModel, depth: number): Promise<void> {
  deepen(cache, depth);
  const state = cache.state();
  await cache.begin(1);
  using ids = gpu.upload("ids", "u32", [1], Uint32Array.of(5));
  const encode = (commands: Commands): void => {
    cache.restore(state);
    decoder.step(commands, ids, cache);
  };
  await ready();
  for (let i = 0; i < (software ? 1 : 20); i++) await gpuTimes(gpu, 1, encode);
  const whole = (await gpuTimes(gpu, software ? 3 : 20, encode)).toSorted();
  const start = performance.now(), encoded = gpu.commands("step");
  encode(encoded);
  const cpu = performance.now() - start;
  encoded.submit();
  await gpu.idle();
  console.log(
    `${name} at ${depth}: ${(1e6 * whole[whole.length >> 1]!).toFixed(0)} us a step on the GPU, ` +
      `${(1e3 * cpu).toFixed(0)} us to encode`,
  );
  const times = await profile(gpu, encode), sum = (list: number[]): number => list.reduce((a, b) => a + b, 0);
  for (const [label, own] of [...times].sort(([, a], [, b]) => sum(b) - sum(a))) {
    const median = own.toSorted((a, b) => a - b)[own.length >> 1]!;
    console.log(
      `  ${sum(own).toFixed(0).padStart(7)} us in ${String(own.length).padStart(3)} of ${
        median.toFixed(1)
      } us  ${label}`,
    );
  }
}

{
  using model = await bundled(gpu, software ? 1024 : 16_384);
  for (const depth of software ? [512] : [0, 8192]) await step(model, depth);
}
if (!software) {
  using model = await shaped8B(gpu, 32_768 + 256);
  for (const depth of [0, 8192]) await step(model, depth);
}
