/**
 * One compiled kernel with its bindings, uniform fields and constants, all typed from the generated reflection.
 *
 * @module
 */
import type { Commands } from "./commands.ts";
import type { Access, Constant } from "./compose.ts";
import type { Compiled, Gpu } from "./gpu.ts";
import type { Shape, Tensor } from "./tensor.ts";
import type { Texels } from "./texels.ts";

/** What `wgsl.gen.ts` says of a kernel. */
export interface KernelSource {
  readonly name: string;
  readonly params: Readonly<Record<string, { readonly offset: number; readonly type: string }>>;
  readonly bindings: Readonly<Record<string, { readonly binding: number; readonly access: Access }>>;
  readonly constants: Readonly<Record<string, Constant>>;
}

/** Bindings of weights, which a kernel with that choice takes in texels too. */
type Stored<S extends KernelSource> = S["constants"] extends { readonly STORE: string } ? "weights" | "scales" : never;
/** The tensors, and texels, that a kernel binds, by name. */
export type Buffers<S extends KernelSource> = {
  readonly [B in keyof S["bindings"]]: B extends Stored<S> ? Tensor | Texels : Tensor;
};
/** A shape for every tensor that a kernel binds. */
export type Shapes<S extends KernelSource> = { readonly [B in keyof S["bindings"]]: Shape };
/** A kernel's uniform fields. */
export type Params<S extends KernelSource> = { readonly [P in keyof S["params"]]: number };
/** The constants of a kernel that the host may replace. */
export type Constants<S extends KernelSource> = { readonly [C in keyof S["constants"]]?: Constant };
/** Workgroups along x, y and z. */
export type Grid = readonly [number, number?, number?];

/** Bind groups kept per kernel; past this the cache starts anew, so views made on the way cannot pile up. */
const MAX_BIND_GROUPS = 4096;

/** Bind groups by the tensors in them, one after the other. */
interface GroupNode {
  readonly next: Map<number, GroupNode>;
  group?: GPUBindGroup;
}

/** A kernel ready to encode. Borrows every tensor. */
export class Kernel<S extends KernelSource> {
  #groups: GroupNode = { next: new Map() };
  #held = 0;
  readonly #offsets = new Uint32Array(1);
  readonly #bindings: readonly { name: string; binding: number }[];
  readonly #fields: readonly { name: string; word: number; float: boolean }[];
  /** Read once: a step asks for it dozens of times, and each is a call out of JavaScript. */
  readonly #widest: number;

  private constructor(readonly gpu: Gpu, readonly source: S, readonly compiled: Compiled) {
    this.#bindings = Object.entries(source.bindings).map(([name, { binding }]) => ({ name, binding }));
    this.#fields = Object.entries(source.params)
      .map(([name, { offset, type }]) => ({ name, word: offset / 4, float: type === "f32" }));
    this.#widest = gpu.limits.maxComputeWorkgroupsPerDimension;
  }

  /** Compiles `source` with `constants` replaced, or takes the pipeline that has been compiled already. */
  static async create<S extends KernelSource>(gpu: Gpu, source: S, constants: Constants<S> = {}): Promise<Kernel<S>> {
    const given = Object.fromEntries(Object.entries(constants).filter(([, value]) => value !== undefined)) as Record<
      string,
      Constant
    >;
    const texts = Object.entries(given).map(([name, value]) => `${name}=${value}`);
    if (gpu.subgroups) texts.push("subgroups");
    return new Kernel(gpu, source, await gpu.compile(source.name, `${source.name}[${texts.join()}]`, given));
  }

  /** Encodes one dispatch of `grid` workgroups. */
  encode(commands: Commands, io: Buffers<S>, params: Params<S>, grid: Grid): void {
    const [x, y = 1, z = 1] = grid, most = this.#widest;
    if (x > most || y > most || z > most) {
      throw new RangeError(
        `Cannot dispatch ${this.compiled.label} as a grid is at most ${most} wide: it is ${x}x${y}x${z}`,
      );
    }
    if (x === 0 || y === 0 || z === 0) return;
    const { pass } = commands;
    pass.setPipeline(this.compiled.pipeline);
    const group = this.#group(io as Readonly<Record<string, Tensor | Texels>>);
    if (this.#fields.length > 0) {
      const { ring } = this.gpu, slot = ring.take(), first = slot / 4;
      for (const { name, word, float } of this.#fields) {
        const value = (params as Readonly<Record<string, number>>)[name]!;
        if (float) ring.floats[first + word] = value;
        else ring.words[first + word] = value;
      }
      this.#offsets[0] = slot;
      pass.setBindGroup(0, group, this.#offsets, 0, 1);
    } else pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(x, y, z);
  }

  #group(io: Readonly<Record<string, Tensor | Texels>>): GPUBindGroup {
    let node = this.#groups;
    for (const { name } of this.#bindings) {
      const { id } = io[name]!;
      let next = node.next.get(id);
      if (!next) node.next.set(id, next = { next: new Map() });
      node = next;
    }
    return node.group ??= this.#makeGroup(io);
  }

  #makeGroup(io: Readonly<Record<string, Tensor | Texels>>): GPUBindGroup {
    const entries: GPUBindGroupEntry[] = this.#bindings.map(({ name, binding }) => {
      return { binding, resource: io[name]!.resource };
    });
    if (this.#fields.length > 0) entries.unshift({ binding: 0, resource: { buffer: this.gpu.ring.buffer, size: 256 } });
    if (++this.#held > MAX_BIND_GROUPS) {
      this.#groups = { next: new Map() };
      this.#held = 0;
    }
    return this.gpu.device.createBindGroup({ label: this.compiled.label, layout: this.compiled.layout, entries });
  }
}

/** Throws `TypeError` unless every named tensor has the shape it must have. */
export function expectShapes(
  action: string,
  io: Readonly<Record<string, Tensor | Texels>>,
  shapes: Readonly<Record<string, Shape>>,
): void {
  for (const name in shapes) {
    const want = shapes[name]!, tensor = io[name]!;
    let same = want.length === tensor.shape.length;
    for (let i = 0; same && i < want.length; i++) same = want[i] === tensor.shape[i];
    if (!same) {
      throw new TypeError(
        `Cannot ${action} as '${name}' must have shape [${want}]: current shape of "${tensor.label}" is [${tensor.shape}]`,
      );
    }
  }
}
