import { assert, assertEquals, assertRejects } from "@std/assert";
import { FileFormatError } from "../../src/core/errors.ts";
import {
  readSafetensors,
  type SafetensorsType,
  type TensorData,
  writeSafetensors,
} from "../../src/files/safetensors.ts";
import { openSource } from "../../src/files/source.ts";

async function temporary(): Promise<string> {
  return `${await Deno.makeTempDir()}/x.safetensors`;
}

Deno.test("writeSafetensors() is undone by readSafetensors(), for every type", async () => {
  const sizes = {
    F64: 8,
    F32: 4,
    F16: 2,
    BF16: 2,
    I64: 8,
    I32: 4,
    I16: 2,
    I8: 1,
    U64: 8,
    U32: 4,
    U16: 2,
    U8: 1,
    BOOL: 1,
  };
  const tensors: Record<string, TensorData> = { empty: { dtype: "F32", shape: [0, 5], data: new Float32Array(0) } };
  for (const [dtype, bytes] of Object.entries(sizes)) {
    const data = Uint8Array.from({ length: 6 * bytes }, (_, i) => i + bytes);
    tensors[`a.${dtype}`] = { dtype: dtype as SafetensorsType, shape: [2, 3], data };
  }
  tensors.scalar = { dtype: "U8", shape: [], data: new Uint8Array([1, 9, 1]).subarray(1, 2) };
  const path = await temporary(), metadata = { format: "x", "\u00e9": "漢\n" };
  await writeSafetensors(path, tensors, metadata);
  using source = await openSource(path);
  const read = await readSafetensors(source);
  assertEquals(read.metadata, metadata);
  assertEquals([...read.tensors.keys()], Object.keys(tensors));
  for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
    const entry = read.tensors.get(name)!;
    assertEquals([entry.dtype, entry.shape], [dtype, shape]);
    const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
    assertEquals(await source.read(entry.offset, entry.byteLength), bytes);
  }
});

Deno.test("writeSafetensors() gives the same bytes for the same content, with numbers at multiples of 8", async () => {
  const path = await temporary(), tensors = { b: { dtype: "U8", shape: [1], data: Uint8Array.of(5) } } as const;
  await writeSafetensors(path, tensors, { z: "1", a: "2" });
  const first = await Deno.readFile(path);
  await writeSafetensors(path, tensors, { a: "2", z: "1" });
  assertEquals(await Deno.readFile(path), first);
  assertEquals((first.length - 1) % 8, 0);
  const json = '{"__metadata__":{"a":"2","z":"1"},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}';
  assertEquals(new TextDecoder().decode(first.subarray(8, -1)).trimEnd(), json);
});

Deno.test("writeSafetensors() leaves the old file where it fails", async () => {
  const path = await temporary(), good = { a: { dtype: "F32", shape: [2], data: new Float32Array(2) } } as const;
  await writeSafetensors(path, good);
  const before = await Deno.readFile(path), bad = { a: { ...good.a, shape: [3] } };
  await assertRejects(() => writeSafetensors(path, bad), TypeError, "'a' as F32 [3] needs 12 bytes: it has 8");
  assertEquals(await Deno.readFile(path), before);
  const names = [...Deno.readDirSync(path.replace(/\/[^/]*$/, ""))].map(({ name }) => name);
  assertEquals(names, ["x.safetensors"]);
  assert(before.length > 8);
});

Deno.test("readSafetensors() says what is wrong with a header", async () => {
  const entry = (begin: number, end: number, more: object = {}) => {
    return { dtype: "F32", shape: [2], data_offsets: [begin, end], ...more };
  };
  const read = async (header: object | string): Promise<number> => {
    const json = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
    const path = await temporary(), file = new Uint8Array(8 + json.length + 24);
    new DataView(file.buffer).setBigUint64(0, BigInt(json.length), true);
    file.set(json, 8);
    await Deno.writeFile(path, file);
    using source = await openSource(path);
    return (await readSafetensors(source)).tensors.size;
  };
  assertEquals(await read({ a: entry(8, 16), b: entry(0, 8), c: entry(16, 24), d: entry(24, 24, { shape: [0] }) }), 4);
  const bad: [object | string, string][] = [
    [{ a: entry(0, 8), b: entry(16, 24) }, "its header and tensors have"], // a gap
    [{ a: entry(0, 8), b: entry(8, 16) }, "its header and tensors have"], // something behind
    [{ a: entry(0, 24), b: entry(8, 16) }, "'a' of F32 [2] needs 8 bytes: its offsets span 24"],
    [{ a: entry(0, 24, { shape: [6] }), b: entry(8, 16) }, "'a' and 'b' overlap"],
    [{ a: entry(8, 0) }, "its offsets span -8"],
    [{ a: entry(-8, 0) }, "'a' has no valid offsets"],
    [{ a: entry(0, 8, { shape: [-2] }) }, "'a' has no valid shape"],
    [{ a: entry(24, 32) }, "'a' points past its end"],
    [{ a: entry(0, 8, { dtype: "toString" }) }, "'a' has an unknown type: \"toString\""],
    [{ a: 5 }, "the entry of 'a' must be an object"],
    [{ a: entry(0, 24, { shape: [6] }), __metadata__: { x: 1 } }, "its metadata must be strings"],
    ['{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":1}', "the entry of 'a' must be an object"],
    ["[]", "Cannot read the header of x.safetensors as it must hold an object"],
    ['{"\ud800', "as it is not JSON"],
  ];
  for (const [header, message] of bad) await assertRejects(() => read(header), FileFormatError, message);
});
