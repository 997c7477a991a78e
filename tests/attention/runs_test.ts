import { assertEquals } from "@std/assert";
import { blocksOf, encodedOf, endOf, extend, flushed, hasRoom, MAX_RUNS, place } from "../../src/attention/runs.ts";

Deno.test("flushed() gives whole blocks, as few as leave the ring enough", () => {
  assertEquals([0, 96, 97, 128, 129].map((tokens) => flushed(tokens, 96)), [0, 0, 32, 32, 64]);
});

Deno.test("runs go on where they end with a block, else another begins behind it", () => {
  const none = extend([], { block: 0, tokens: 64, position: 4 });
  const one = extend(none, { block: 2, tokens: 32, position: 68 });
  assertEquals(one, [{ block: 0, tokens: 96, position: 4 }]);
  const cut = [{ ...one[0]!, tokens: 45 }], two = extend(cut, { block: blocksOf(cut), tokens: 32, position: 49 });
  assertEquals(two, [...cut, { block: 2, tokens: 32, position: 49 }]);
  assertEquals([[], none, cut, two].map(endOf), [0, 32, 13, 32]);
  assertEquals([[], none, cut, two].map(blocksOf), [0, 2, 2, 3]);
  assertEquals([[], none, cut, two].map(encodedOf), [0, 64, 45, 77]);
  assertEquals(place([45, 32], 4), two);
});

Deno.test("hasRoom() counts the run that must follow an unfinished one", () => {
  const runs = (count: number, last: number) =>
    Array.from({ length: count }, (_, i) => ({ tokens: i < count - 1 ? 5 : last }));
  assertEquals([runs(MAX_RUNS - 1, 5), runs(MAX_RUNS, 32), runs(MAX_RUNS, 5)].map(hasRoom), [true, true, false]);
});
