import { assertEquals, assertThrows } from "@std/assert";
import { Rng } from "../../src/core/rng.ts";
import { Copy } from "../../src/kernels/copy.ts";
import { copyRef } from "../../src/ref/copy.ts";
import { onEachText, poisoned } from "../_gpu.ts";

Deno.test("copy", (t) =>
  onEachText(t, async (gpu) => {
    const op = await Copy.create(gpu), rng = new Rng(3);
    for (const words of [1, 255, 256, 1023, 1025, 40_001]) {
      const data = Uint32Array.from({ length: 4 * words }, () => rng.u32());
      using source = gpu.upload("source", "u32", [4 * words], data), copied = poisoned(gpu, "copied", [4 * words]);
      const commands = gpu.commands();
      op.encode(commands, { source, copied });
      commands.submit();
      assertEquals(await gpu.readU32(copied), copyRef(data));
    }
    using odd = gpu.alloc("odd", "u32", [5]);
    assertThrows(() => op.encode(gpu.commands(), { source: odd, copied: odd }), RangeError, "16 bytes");
  }));
