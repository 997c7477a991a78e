import { assert, assertEquals, assertThrows } from "@std/assert";
import { StopMatcher, TextStream } from "../../src/text/stream.ts";
import { createTokenizer, type Tokenizer } from "../../src/text/tokenizer.ts";
import { fableHuggingFace, smallSentencePiece } from "./_models.ts";

const TOKENIZERS: [string, Tokenizer][] = [
  ["byte-level", createTokenizer(fableHuggingFace())],
  ["SentencePiece", createTokenizer({ kind: "gguf", metadata: smallSentencePiece() })],
];

const TEXTS = ["Hello, world! ", "👩‍👩‍👧‍👦🙂🇩🇪", "漢字かな", "한국어", " ", "  a", "naïve é", "\n\n", "\ufeff", "\ufffd"];

function randoms(seed: number): (n: number) => number {
  return (n) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * n);
  };
}

/** Ids of whole texts, of texts cut anywhere, and ids at random: bytes that are no character, marks, padding rows. */
function randomIds(tokenizer: Tokenizer, random: (n: number) => number): number[] {
  const ids: number[] = [];
  for (let i = random(8); i >= 0; i--) {
    const some = tokenizer.encode(TEXTS[random(TEXTS.length)]!, { bos: random(4) === 0 });
    const kind = random(4);
    if (kind === 0) ids.push(...some);
    else if (kind === 1) ids.push(...some.slice(random(some.length + 1)));
    else if (kind === 2) ids.push(...some.slice(0, random(some.length + 1)));
    else for (let j = random(6); j > 0; j--) ids.push(random(random(2) ? 260 : tokenizer.vocabSize + 5));
  }
  return ids;
}

for (const [name, tokenizer] of TOKENIZERS) {
  Deno.test(`TextStream shows decode()'s text and no part of a character, ${name}`, () => {
    const random = randoms(3);
    for (let round = 0; round < 3000; round++) {
      const ids = randomIds(tokenizer, random);
      const skipSpecial = random(2) === 0;
      const stream = new TextStream(tokenizer, { skipSpecial });
      const chunks = ids.map((id) => stream.push(id));
      chunks.push(stream.flush());
      const text = tokenizer.decode(ids, { skipSpecial });
      assertEquals(chunks.join(""), text, `round ${round}: ${ids}`);
      assert(chunks.every((chunk) => chunk.isWellFormed()), `round ${round}: half a character`);
    }
  });

  Deno.test(`TextStream shows a character with the token that completes it, ${name}`, () => {
    for (const text of TEXTS) {
      const stream = new TextStream(tokenizer, { skipSpecial: true });
      const ids = tokenizer.encode(text);
      const chunks = ids.map((id) => stream.push(id));
      assertEquals(chunks.join(""), text, "nothing is left for flush()");
      assertEquals(stream.flush(), "");
      if (text !== "\ufffd") assert(!chunks.join("").includes("\ufffd"), "no sign of a broken character");
      for (let i = 0; i < ids.length; i++) {
        const shown = chunks.slice(0, i + 1).join("");
        const known = tokenizer.decode(ids.slice(0, i + 1), { skipSpecial: true });
        assertEquals(shown, known.replace(/\ufffd+$/, text === "\ufffd" && i === ids.length - 1 ? "$&" : ""));
      }
    }
  });
}

Deno.test("TextStream keeps the space at its start only when it continues a prompt", () => {
  const [, sentencePiece] = TOKENIZERS[1]!;
  const ids = sentencePiece.encode("ab c", { bos: false });
  const show = (options: { continues?: boolean }): string => {
    const stream = new TextStream(sentencePiece, options);
    return ids.map((id) => stream.push(id)).join("") + stream.flush();
  };
  assertEquals(show({}), "ab c");
  assertEquals(show({ continues: true }), " ab c");
  const [, byteLevel] = TOKENIZERS[0]!;
  const stream = new TextStream(byteLevel);
  assertEquals(byteLevel.encode(" the", { bos: false }).map((id) => stream.push(id)).join(""), " the");
});

Deno.test("TextStream looks at each token once", () => {
  const [, tokenizer] = TOKENIZERS[0]!;
  let looks = 0;
  const counted: Tokenizer = Object.create(tokenizer, {
    bytes: { value: (id: number) => (looks++, tokenizer.bytes(id)) },
    stripsSpace: { value: false },
    decode: { value: () => assert(false, "decoding again is not O(1)") },
  });
  const stream = new TextStream(counted);
  for (let i = 0; i < 1000; i++) stream.push(174); // a first byte, again and again
  assertEquals(looks, 1000);
});

// --- Stop strings ----------------------------------------------------------------------------------------------------

function runStops(stops: string[], chunks: string[]): { text: string; stopped: boolean; flushed: string } {
  const matcher = new StopMatcher(stops);
  let text = "", stopped = false;
  for (const chunk of chunks) {
    const result = matcher.push(chunk);
    text += result.text;
    stopped = result.stopped;
  }
  return { text, stopped, flushed: matcher.flush() };
}

Deno.test("StopMatcher holds back what may become a stop string", () => {
  const matcher = new StopMatcher(["\n\nUser:", "END"]);
  assertEquals(matcher.push("Hi E"), { text: "Hi ", stopped: false });
  assertEquals(matcher.push("N"), { text: "", stopped: false });
  assertEquals(matcher.push("T\n"), { text: "ENT", stopped: false });
  assertEquals(matcher.push("\nUse"), { text: "", stopped: false });
  assertEquals(matcher.push("r: more"), { text: "", stopped: true });
  assertEquals(matcher.push("more"), { text: "", stopped: true });
  assertEquals(matcher.flush(), "");
  assertEquals(runStops(["END"], ["the EN"]), { text: "the ", stopped: false, flushed: "EN" });
  assertEquals(runStops([], ["all"]), { text: "all", stopped: false, flushed: "" });
  assertEquals(runStops(["b"], ["abc"]), { text: "a", stopped: true, flushed: "" });
  for (const bad of ["", 5]) assertThrows(() => new StopMatcher([bad as string]), TypeError, "character");
});

/** By the definition: add one character at a time; stop as soon as a stop string stands at the end, the longest. */
function slowStops(stops: string[], text: string): { text: string; stopped: boolean } {
  for (let end = 1; end <= text.length; end++) {
    const found = stops.filter((stop) => text.slice(0, end).endsWith(stop)).map((stop) => stop.length);
    if (found.length > 0) return { text: text.slice(0, end - Math.max(...found)), stopped: true };
  }
  return { text, stopped: false };
}

Deno.test("StopMatcher stops at the same place however text is cut", () => {
  const random = randoms(5);
  const letters = ["a", "b", "c", "🙂"];
  const word = (length: number): string => Array.from({ length }, () => letters[random(4)]).join("");
  for (let round = 0; round < 5000; round++) {
    const stops = Array.from({ length: 1 + random(3) }, () => word(1 + random(5)));
    const text = word(random(40));
    const chunks: string[] = [];
    const points = [...text];
    while (points.length > 0) chunks.push(points.splice(0, 1 + random(5)).join(""));
    const { text: shown, stopped, flushed } = runStops(stops, chunks);
    assertEquals({ text: shown + flushed, stopped }, slowStops(stops, text), `${round}: ${stops} in ${chunks}`);
  }
});
