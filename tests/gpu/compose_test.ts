import { assertEquals, assertThrows } from "@std/assert";
import { bindingsOf, compose, paramsOf } from "../../src/gpu/compose.ts";

const sources = {
  k: "#import sum\n#import load_a // @param LOAD which loader\nconst N: u32 = 4u; // @param count\nfn main() {}",
  "parts/sum": "#import base\nfn sum() {}",
  "parts/sum_subgroup": "#import base\nfn sum() { /* subgroups */ }",
  "parts/base": "const B: f32 = 1.5; // @param",
  "parts/load_a": "fn load() {}",
  "parts/load_b": "alias T = f16; // @param element\nfn load() {}",
};

Deno.test("compose() places each part once, depth first, and keeps track of lines", () => {
  const { text, origin } = compose(sources, "k");
  assertEquals(text.split("\n"), [
    "const B: f32 = 1.5; // @param",
    "fn sum() {}",
    "fn load() {}",
    "const N: u32 = 4u; // @param count",
    "fn main() {}",
  ]);
  assertEquals(origin(3), "wgsl/k.wgsl:3");
  assertEquals(origin(0), "wgsl/parts/base.wgsl:1");
});

Deno.test("compose() replaces constants and chosen parts, and takes subgroup twins", () => {
  const { text } = compose(sources, "k", { N: 9, B: 2, LOAD: "load_b", T: "f32" }, true);
  assertEquals(text.split("\n"), [
    "const B: f32 = 2.0f;",
    "fn sum() { /* subgroups */ }",
    "alias T = f32;",
    "fn load() {}",
    "const N: u32 = 9u;",
    "fn main() {}",
  ]);
});

Deno.test("compose() enables f16 where the text uses it", () => {
  assertEquals(compose(sources, "k", { LOAD: "load_b" }).text.split("\n")[0], "enable f16;");
});

Deno.test("compose() rejects unknown constants and missing parts", () => {
  assertThrows(() => compose(sources, "k", { M: 1 }), TypeError, "no @param 'M'");
  assertThrows(() => compose({ k: "#import gone" }, "k"), TypeError, "wgsl/parts/gone.wgsl does not exist");
});

Deno.test("paramsOf() lists defaults", () => {
  assertEquals(paramsOf(sources, "k"), { B: 1.5, LOAD: "load_a", N: 4 });
});

Deno.test("bindingsOf() reads every kind of binding, and refuses others", () => {
  const text = [
    "@group(0) @binding(0) var<uniform> params: Params;",
    "@group(0) @binding(1) var<storage, read> a: array<vec4u>;",
    "@group(0) @binding(2) var<storage, read_write> b: array<atomic<u32>>;",
    "@group(0) @binding(3) var c: texture_storage_2d<r32uint, read>;",
    "@group(0) @binding(4) var<uniform> d: array<vec4f, N>;",
    "var<workgroup> e: array<u32, 4>;",
  ];
  assertEquals(bindingsOf(text.join("\n")), [
    { name: "params", binding: 0, access: "uniform" },
    { name: "a", binding: 1, access: "read" },
    { name: "b", binding: 2, access: "write" },
    { name: "c", binding: 3, access: "texels", format: "r32uint" },
    { name: "d", binding: 4, access: "uniform" },
  ]);
  for (const other of ["var c: texture_2d<u32>;", "var<push_constant> p: u32;", "var s: sampler;"]) {
    assertThrows(() => bindingsOf(`@group(0) @binding(1) ${other}`), TypeError, "Cannot read the binding");
  }
});
