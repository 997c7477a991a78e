import { assert, assertEquals, assertThrows } from "@std/assert";
import { FileFormatError } from "../../src/core/errors.ts";
import { answerSpans, FAMILIES, generateTasks, parseTasks } from "../../src/eval/tasks.ts";

Deno.test("generateTasks() makes the length asked for, the same for the same seed", () => {
  for (const family of FAMILIES) {
    for (const chars of [1000, 8000]) {
      const options = { family, chars, count: 3, seed: 4 }, tasks = generateTasks(options);
      assertEquals(tasks, generateTasks(options));
      assert(
        JSON.stringify(tasks) !== JSON.stringify(generateTasks({ ...options, seed: 5 })),
        `${family} ignores its seed`,
      );
      for (const { text, spans } of tasks) {
        assert(spans.length > 0, family);
        assert(
          text.length > 0.4 * chars && text.length < 2.4 * chars + 1200,
          `${family}@${chars} has ${text.length} characters`,
        );
      }
    }
  }
});

Deno.test("every answer of a generated task stands in the text before it, or follows from it", () => {
  for (const family of FAMILIES.filter((f) => f !== "problems" && f !== "far_sums")) {
    for (const { text, spans } of generateTasks({ family, chars: 3000, count: 4, seed: 9 })) {
      for (const [start, end] of spans) {
        assert(text.slice(0, start).includes(text.slice(start, end).trim()), `${family}: ${text.slice(start, end)}`);
      }
    }
  }
  for (const { text, spans } of generateTasks({ family: "far_sums", chars: 3000, count: 4 })) {
    const [start, end] = spans[0]!, [, a, b, sum] = /^(\d+) \+ (\d+) = (\d+)$/.exec(text.slice(start, end))!;
    assertEquals(Number(a) + Number(b), Number(sum));
    assert(start - text.indexOf(` has ${b} pencils in the second`) > 1000, "the operands must lie beyond any window");
  }
});

Deno.test("generateTasks() hides pass keys at the depths asked for, in turn", () => {
  const depths = [0, 0.5, 1], tasks = generateTasks({ family: "passkey", chars: 8000, count: 5, depths });
  tasks.forEach(({ text }, i) => {
    const at = text.indexOf("The pass key is") / text.length, wanted = depths[i % 3]!;
    assert(Math.abs(at - wanted) < 0.08, `asked for ${wanted}, found at ${at}`);
  });
});

Deno.test("generateTasks() takes whole sentences of the filler", () => {
  const filler = `One short sentence stands here. ${"x".repeat(300)} is too long a sentence to be taken. `.repeat(2);
  const [{ text } = { text: "" }] = generateTasks({ family: "passkey", chars: 900, count: 1, filler });
  assert(text.includes("One short sentence stands here. One short"), text);
  assert(!text.includes("too long"), text);
});

Deno.test("answerSpans() cuts the spaces before an answer", () => {
  const task = { task: "x", chars: 1, text: "a b  12 c", spans: [[5, 7]] as const };
  const words = (text: string): number[] => [...text.matchAll(/\S+/g)].map((_, i) => i);
  assertEquals(answerSpans(task, words), [{ from: 2, to: 3 }]);
});

Deno.test("parseTasks() names the line that is wrong", () => {
  const good = '{"task":"a","chars":3,"text":"abc","spans":[[0,1]]}';
  assertEquals(parseTasks(`${good}\n\n${good}\n`, "t.jsonl").length, 2);
  for (
    const bad of [
      "{",
      "3",
      "null",
      '{"task":"a","chars":3,"text":"abc"}',
      '{"task":"a","chars":3,"text":"abc","spans":[[2,9]]}',
      '{"task":"a","chars":3,"text":"abc","spans":[[2,1]]}',
    ]
  ) {
    assertThrows(() => parseTasks(`${good}\n${bad}`, "t.jsonl"), FileFormatError, "line 2");
  }
});
