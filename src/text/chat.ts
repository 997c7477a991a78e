/**
 * Conversations as prompts, by the model's own chat template.
 *
 * @module
 */
import { Template } from "@huggingface/jinja";
import { FileFormatError, UnsupportedModelError } from "../core/errors.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** One message of a conversation. `role` is what the template knows: mostly "system", "user" and "assistant". */
export interface Message {
  /** Who speaks: `system`, `user`, `assistant`, or what the model's template knows. */
  role: string;
  /** What is said. */
  content: string;
}

/** What a template may write besides the messages. */
export interface ChatOptions {
  /** Text of the token that begins a text, or empty. */
  bosToken: string;
  /** Text of the token that ends one, or empty. */
  eosToken: string;
  /** Whether the text ends where the assistant's answer begins (default `true`). */
  addGenerationPrompt?: boolean;
}

/**
 * The text of a conversation.
 *
 * @param template A chat template in Jinja, or `null` for a model that has none.
 * @param messages The conversation, oldest first.
 * @param options The texts of BOS and EOS, and how to end.
 * @throws {UnsupportedModelError} If there is no template.
 * @throws {TypeError} If `messages` is not a list of messages with text.
 * @throws {FileFormatError} If the template is not valid Jinja.
 * @throws {RangeError} If the template refuses the conversation, e.g. because roles do not alternate.
 */
export function renderChat(template: string | null, messages: readonly Message[], options: ChatOptions): string {
  if (template === null) {
    throw new UnsupportedModelError(
      "Cannot use messages as the model must have a chat template: it has none, so pass the prompt as a string",
    );
  }
  checkMessages(messages);
  return render(parse(template), {
    messages: messages.map(({ role, content }) => ({ role, content })),
    bos_token: options.bosToken,
    eos_token: options.eosToken,
    add_generation_prompt: options.addGenerationPrompt ?? true,
  });
}

/**
 * The ids of a conversation. BOS stands in front once, whether the template writes it or the model's settings add it.
 *
 * @param tokenizer The model's tokenizer, with its template.
 * @param messages The conversation, oldest first.
 * @param options See {@linkcode renderChat}, whose errors this throws too.
 */
export function encodeChat(
  tokenizer: Tokenizer,
  messages: readonly Message[],
  options: { addGenerationPrompt?: boolean } = {},
): number[] {
  const eos = tokenizer.eos[0];
  const text = renderChat(tokenizer.chatTemplate, messages, {
    bosToken: tokenizer.bos === null ? "" : tokenizer.token(tokenizer.bos),
    eosToken: eos === undefined ? "" : tokenizer.token(eos),
    addGenerationPrompt: options.addGenerationPrompt,
  });
  const ids = tokenizer.encode(text, { bos: false });
  return tokenizer.addsBos && ids[0] !== tokenizer.bos ? [tokenizer.bos!, ...ids] : ids;
}

function checkMessages(messages: readonly Message[]): void {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw new TypeError("Cannot use messages as there must be an array of one or more: pass [{ role, content }]");
  }
  messages.forEach((message, i) => {
    for (const name of ["role", "content"] as const) {
      const value: unknown = message?.[name];
      if (typeof value === "string" && (value !== "" || name === "content")) continue;
      throw new TypeError(
        `Cannot use message ${i} as its '${name}' must be text: current value is ${value === "" ? '""' : typeof value}`,
      );
    }
  });
}

function parse(template: string): Template {
  try {
    return new Template(template);
  } catch (error) {
    throw new FileFormatError(`Cannot use the chat template as it must be valid Jinja: ${(error as Error).message}`);
  }
}

function render(template: Template, variables: Record<string, unknown>): string {
  try {
    return template.render(variables);
  } catch (error) {
    throw new RangeError(
      `Cannot use these messages as the model's chat template must accept them: ${(error as Error).message}`,
    );
  }
}
