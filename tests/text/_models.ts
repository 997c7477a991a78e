/** Tokenizers for the tests: the bundled model's, read both ways, and a small SentencePiece made here. */
import { readGguf } from "../../src/files/gguf.ts";
import { openSource } from "../../src/files/source.ts";
import type { RawTokenizer } from "../../src/text/tokenizer.ts";

const MODEL = new URL("../../models/fable-28m/", import.meta.url);

function readJson(name: string): object {
  return JSON.parse(Deno.readTextFileSync(new URL(name, MODEL)));
}

/** The bundled model's tokenizer from its Hugging Face files. */
export function fableHuggingFace(): RawTokenizer {
  return {
    kind: "hf",
    tokenizerJson: readJson("tokenizer.json"),
    tokenizerConfig: readJson("tokenizer_config.json"),
    generationConfig: readJson("generation_config.json"),
  };
}

/** The bundled model's tokenizer from its GGUF. */
export async function fableGguf(): Promise<RawTokenizer> {
  using source = await openSource(new URL("fable-28m.Q8_0.gguf", MODEL));
  return { kind: "gguf", metadata: (await readGguf(source)).metadata };
}

/** Words of the small SentencePiece. Some can be made in two ways, and many share a score, on purpose. */
const WORDS = "▁ a b c aa ab ba bb aaa aab baa abab ▁a ▁b ▁ab ▁▁ ▁▁▁▁ é ▁é 漢 漢字 字 ca abc ▁abc".split(" ");

/** A small SentencePiece vocabulary as GGUF metadata: 3 marks, 256 bytes, words, one token of the user's. */
export function smallSentencePiece(changes: Record<string, unknown> = {}): Map<string, unknown> {
  const bytes = Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`);
  const tokens = ["<unk>", "<s>", "</s>", ...bytes, ...WORDS, "<tool>"];
  return new Map(Object.entries({
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.token_type": Int32Array.from(tokens, (token, id) => {
      return id === 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : token === "<tool>" ? 4 : 1;
    }),
    // Seven scores for 25 words: ties are common, and longer words do not always win.
    "tokenizer.ggml.scores": Float32Array.from(tokens, (_, id) => id < 259 ? 0 : -((id * 5) % 7)),
    ...changes,
  }));
}
