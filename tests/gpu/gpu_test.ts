import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { GpuMemoryError, ShaderError } from "../../src/core/errors.ts";
import { Gpu, Staging } from "../../src/gpu/gpu.ts";
import { gpuTimes } from "../../src/gpu/timing.ts";
import { AttnMerge } from "../../src/kernels/attn_merge.ts";

Deno.test("read() brings back what write() wrote, at any length", async () => {
  using gpu = await Gpu.create();
  for (const length of [1, 3, 4, 257, 100_003]) {
    const data = Uint16Array.from({ length }, (_, i) => i * 31);
    using tensor = gpu.upload("halves", "f16", [length], data);
    assertEquals(new Uint16Array(await gpu.read(tensor)), data);
  }
});

Deno.test("read() takes no sleep of ten milliseconds", async () => {
  using gpu = await Gpu.create();
  using tensor = gpu.upload("word", "u32", [1], Uint32Array.of(7));
  using staging = new Staging(gpu, 4);
  let best = Infinity;
  for (let i = 0; i < 30; i++) {
    const start = performance.now(), commands = gpu.commands();
    staging.copy(commands, tensor);
    commands.submit();
    assertEquals(new Uint32Array(await staging.read())[0], 7);
    best = Math.min(best, performance.now() - start);
  }
  assert(best < 8, `the quickest of 30 reads took ${best} ms`);
});

Deno.test("write() past a tensor's end is refused before it reaches the GPU", async () => {
  using gpu = await Gpu.create();
  using tensor = gpu.alloc("small", "f32", [4]);
  assertThrows(() => gpu.write(tensor, new Float32Array(5)), RangeError, "'small'");
});

Deno.test("alloc() refuses more than the device binds, with both numbers", async () => {
  using gpu = await Gpu.create();
  const count = gpu.maxBytes / 4 + 4;
  assertThrows(() => gpu.alloc("huge", "f32", [count]), GpuMemoryError, `${gpu.maxBytes}`);
});

Deno.test("alloc() counts live bytes and release gives them back", async () => {
  using gpu = await Gpu.create();
  const before = gpu.bytes;
  {
    using _a = gpu.alloc("a", "f32", [1000]);
    assertEquals(gpu.bytes, before + 4000);
  }
  assertEquals(gpu.bytes, before);
});

Deno.test("errors of the GPU surface at the next settle", async () => {
  using gpu = await Gpu.create();
  using a = gpu.alloc("a", "f32", [4]);
  a.buffer.destroy();
  await assertRejects(() => gpu.read(a), Error, "as the GPU refused it");
});

Deno.test("compile() names the file and line of a WGSL error", async () => {
  using gpu = await Gpu.create();
  const error = await assertRejects(
    () => gpu.compile("attn_merge", "broken", { HEAD_DIM: "nonsense" }),
    ShaderError,
  );
  assert(/wgsl\/attn_merge\.wgsl:\d+: /.test(error.message), error.message);
  await assertRejects(() => gpu.compile("attn_merge", "unknown", { NOPE: 1 }), TypeError, "no @param 'NOPE'");
});

Deno.test("create() takes a caller's own device and leaves it alive", async () => {
  const adapter = await navigator.gpu.requestAdapter();
  const device = await adapter!.requestDevice();
  {
    using gpu = await Gpu.create({ device });
    const op = await AttnMerge.create(gpu, 64);
    using tensor = gpu.upload("x", "f32", [1, 1, 64], new Float32Array(64).fill(3));
    using md = gpu.upload("md", "f32", [1, 1, 2], Float32Array.of(0, 2));
    using out = gpu.alloc("out", "f32", [1, 64]);
    const commands = gpu.commands();
    op.encode(commands, { partialO: tensor, partialMd: md, out }, { rows: 1, splits: 1, headDim: 64 });
    commands.submit();
    assertEquals(await gpu.readF32(out), new Float32Array(64).fill(1.5));
  }
  device.createBuffer({ size: 16, usage: GPUBufferUsage.STORAGE }).destroy();
  device.destroy();
});

Deno.test("uniforms survive a wrap of their ring", async () => {
  using gpu = await Gpu.create();
  const op = await AttnMerge.create(gpu, 4), count = 3000;
  using tensor = gpu.upload("x", "f32", [1, 1, 4], Float32Array.of(1, 2, 3, 4));
  using md = gpu.upload("md", "f32", [1, 1, 2], Float32Array.of(0, 1));
  using out = gpu.alloc("out", "f32", [1, 4]);
  for (let batch = 0; batch < 4; batch++) { // 12,000 dispatches in all, past the ring's 8,192
    const commands = gpu.commands();
    for (let i = 0; i < count; i++) {
      op.encode(commands, { partialO: tensor, partialMd: md, out }, { rows: 1, splits: 1, headDim: 4 });
    }
    gpu.write(out, new Float32Array(4));
    commands.submit();
    assertEquals(await gpu.readF32(out), Float32Array.of(1, 2, 3, 4));
  }
});

Deno.test("gpuTimes() gives positive times", async () => {
  using gpu = await Gpu.create();
  using a = gpu.alloc("a", "f32", [1, 1, 64]),
    md = gpu.alloc("md", "f32", [1, 1, 2]),
    out = gpu.alloc("out", "f32", [1, 64]);
  const op = await AttnMerge.create(gpu, 64);
  const times = await gpuTimes(
    gpu,
    5,
    (commands) => op.encode(commands, { partialO: a, partialMd: md, out }, { rows: 1, splits: 1, headDim: 64 }),
  );
  assert(times.length === 5 && times.every((time) => time > 0 && time < 1), String(times));
});
