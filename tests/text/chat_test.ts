import { assertEquals, assertThrows } from "@std/assert";
import { FileFormatError, UnsupportedModelError } from "../../src/core/errors.ts";
import { encodeChat, type Message, renderChat } from "../../src/text/chat.ts";
import { createTokenizer, type RawTokenizer } from "../../src/text/tokenizer.ts";
import { fableHuggingFace, smallSentencePiece } from "./_models.ts";

/** In the manner of Llama 2: the system prompt inside the first turn, roles that must alternate. */
const LLAMA2 = `{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\\n' + messages[0]['content'].strip() +
'\\n<</SYS>>\\n\\n' %}{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}
{%- for message in turns %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate') }}
{%- endif %}
{%- set content = system + message['content'] if loop.first else message['content'] %}
{%- if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{%- else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}
{%- endfor %}`;

/** In the manner of Llama 3: headers, BOS before the first, a trimmed content. */
const LLAMA3 = `{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' + date_string + '\\n' + message.content | trim }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim }}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}`;

const TALK: Message[] = [
  { role: "system", content: "Be brief. " },
  { role: "user", content: " Hi" },
  { role: "assistant", content: "Hello." },
  { role: "user", content: "Why?" },
];
const MARKS = { bosToken: "<s>", eosToken: "</s>" };

Deno.test("renderChat() writes a conversation as Llama 2 does", () => {
  assertEquals(
    renderChat(LLAMA2, TALK, MARKS),
    "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n Hi [/INST] Hello. </s><s>[INST] Why? [/INST]",
  );
});

Deno.test("renderChat() writes a conversation as Llama 3 does, ready for an answer or not", () => {
  const closed = "<s><|start_header_id|>system<|end_header_id|>\n\nToday: 26 Jul 2024\nBe brief.<|eot_id|>" +
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>" +
    "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>" +
    "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>";
  assertEquals(renderChat(LLAMA3, TALK, { ...MARKS, addGenerationPrompt: false }), closed);
  assertEquals(renderChat(LLAMA3, TALK, MARKS), closed + "<|start_header_id|>assistant<|end_header_id|>\n\n");
});

Deno.test("renderChat() refuses what it cannot write", () => {
  const missing = assertThrows(() => renderChat(null, TALK, MARKS), UnsupportedModelError, "chat template");
  assertEquals(missing.message.includes("pass the prompt as a string"), true);
  assertThrows(() => renderChat(LLAMA2, TALK.slice(2), MARKS), RangeError, "Conversation roles must alternate");
  assertThrows(() => renderChat("{% for x in %}", TALK, MARKS), FileFormatError, "valid Jinja");
  assertThrows(() => renderChat("{{ messages | nonsense }}", TALK, MARKS), RangeError, "nonsense");
  const bad: unknown[] = [[], "Hi", [null], [{}], [{ role: "user" }], [{ role: "user", content: 5 }], [
    { role: "", content: "" },
  ], [{ role: "user", content: [{ type: "text", text: "Hi" }] }]];
  for (const messages of bad) {
    assertThrows(() => renderChat(LLAMA3, messages as Message[], MARKS), TypeError, "Cannot use message");
  }
});

Deno.test("encodeChat() puts BOS in front once, whoever writes it", () => {
  const withTemplate = (chatTemplate: string, addsBos = true): RawTokenizer => ({
    ...fableHuggingFace() as RawTokenizer & { kind: "hf" },
    tokenizerConfig: {
      bos_token: "<|begin_of_text|>",
      eos_token: "<|end_of_text|>",
      add_bos_token: addsBos,
      chat_template: chatTemplate,
    },
  });
  const messages = [{ role: "user", content: "Hi" }];
  const ids = (raw: RawTokenizer): number[] => encodeChat(createTokenizer(raw), messages);
  const silent = "{{ messages[0].content }}{{ eos_token }}";
  const plain = createTokenizer(fableHuggingFace()).encode("Hi", { bos: false });
  assertEquals(ids(withTemplate("{{ bos_token }}" + silent)), [0, ...plain, 1]);
  assertEquals(ids(withTemplate(silent)), [0, ...plain, 1]);
  assertEquals(ids(withTemplate("{{ bos_token }}" + silent, false)), [0, ...plain, 1]);
  assertEquals(ids(withTemplate(silent, false)), [...plain, 1]);
  assertThrows(() => ids(fableHuggingFace()), UnsupportedModelError, "pass the prompt as a string");
});

Deno.test("createTokenizer() finds the chat template", () => {
  const raw = fableHuggingFace() as RawTokenizer & { kind: "hf" };
  const find = (chat_template: unknown, chatTemplate?: string): string | null =>
    createTokenizer({ ...raw, tokenizerConfig: { chat_template }, chatTemplate }).chatTemplate;
  assertEquals(find(undefined), null);
  assertEquals(find("one"), "one");
  assertEquals(find("one", "from chat_template.jinja"), "from chat_template.jinja");
  assertEquals(find([{ name: "tool_use", template: "two" }, { name: "default", template: "one" }]), "one");
  assertThrows(() => find(5), FileFormatError, "chat_template");
  assertThrows(() => find(["one"]), FileFormatError, "chat_template");
  const gguf = (template?: unknown): string | null =>
    createTokenizer({ kind: "gguf", metadata: smallSentencePiece({ "tokenizer.chat_template": template }) })
      .chatTemplate;
  assertEquals([gguf(), gguf("one")], [null, "one"]);
  assertThrows(() => gguf(5), FileFormatError, "chat_template");
});
