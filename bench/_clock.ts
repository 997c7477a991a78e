/** The rate at which a GPU's processors really run: idle and freshly loaded ones take a while to reach their clocks. */
import { type Gpu, Staging } from "../src/gpu/gpu.ts";
import { Tensor } from "../src/gpu/tensor.ts";

const LINKS = 1 << 16;
const TEXT = `@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@compute @workgroup_size(32) fn main(@builtin(local_invocation_index) lane: u32) {
  var x = out[lane];
  for (var i = 0u; i < ${LINKS / 64}u; i++) {
    ${"x = fma(x, x, 0.5);\n".repeat(64)}
  }
  out[lane] = x;
}`;

/** A chain of dependent multiply-adds, whose rate is proportional to the clock. */
export class Clock {
  readonly #pipeline: GPUComputePipeline;
  readonly #group: GPUBindGroup;

  constructor(readonly gpu: Gpu) {
    const { device } = gpu;
    const module = device.createShaderModule({ code: TEXT });
    this.#pipeline = device.createComputePipeline({ layout: "auto", compute: { module } });
    const buffer = device.createBuffer({ size: 128, usage: GPUBufferUsage.STORAGE });
    const layout = this.#pipeline.getBindGroupLayout(0);
    this.#group = device.createBindGroup({ layout, entries: [{ binding: 0, resource: { buffer } }] });
  }

  /** Dependent multiply-adds a second, in millions. */
  async rate(): Promise<number> {
    const { device } = this.gpu, querySet = device.createQuerySet({ type: "timestamp", count: 2 });
    const usage = GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
      buffer = device.createBuffer({ size: 16, usage });
    using staging = new Staging(this.gpu, 16);
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass({
      timestampWrites: { querySet, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 },
    });
    pass.setPipeline(this.#pipeline);
    pass.setBindGroup(0, this.#group);
    pass.dispatchWorkgroups(1);
    pass.end();
    encoder.resolveQuerySet(querySet, 0, 2, buffer, 0);
    device.queue.submit([encoder.finish()]);
    const commands = this.gpu.commands("clock");
    staging.copy(commands, new Tensor("stamps", "u32", [4], buffer));
    commands.submit();
    const [start, end] = new BigUint64Array(await staging.read());
    buffer.destroy();
    querySet.destroy();
    return LINKS / Number(end! - start!) * 1e3;
  }
}
