/**
 * What is said where the GPU refuses memory: the bytes needed, and what would fit.
 *
 * @module
 */
import type { KvCache } from "../attention/kv_cache.ts";
import { GpuMemoryError } from "../core/errors.ts";
import type { LlamaConfig } from "../core/model.ts";
import { BLOCK } from "../core/pack.ts";

/** Bytes of one layer's exact keys, or values. */
function sideBytes({ kvHeads, headDim }: LlamaConfig, tokens: number): number {
  return 2 * kvHeads * headDim * tokens;
}

/** Throws unless one layer's exact keys fit what a device binds at once. */
export function expectBinds(config: LlamaConfig, context: number, maxBytes: number): void {
  const bytes = sideBytes(config, context);
  if (bytes <= maxBytes) return;
  throw new GpuMemoryError(
    `Cannot hold ${context} tokens as the keys of a layer take ${bytes} bytes and this device binds at most ${maxBytes} ` +
      `at once: load with a maxContext of at most ${Math.floor(maxBytes / sideBytes(config, 1))}`,
  );
}

/** What to say of weights that were refused. */
export function refusedWeights({ granted }: GpuMemoryError, name: string, bytes: number): GpuMemoryError {
  return new GpuMemoryError(
    `Cannot load ${name} as its weights take ${bytes} bytes and the GPU granted ${granted}: use a smaller model, or one ` +
      "of Q8_0 or Q4_0 weights",
    granted,
  );
}

/**
 * What to say of a cache that was refused.
 *
 * @param used bytes in use before it
 */
export function refusedCache({ granted }: GpuMemoryError, cache: KvCache, used: number, bits: string): GpuMemoryError {
  const { bytes, fixedBytes, capacity } = cache, left = Math.max(0, granted - used);
  const fits = Math.floor(capacity * (left - fixedBytes) / (bytes - fixedBytes) / BLOCK) * BLOCK;
  return new GpuMemoryError(
    `Cannot hold ${capacity} tokens as their cache takes ${bytes} bytes and the GPU has ${left} left: ${
      remedy(fits, bits, "load with a maxContext of")
    }`,
    granted,
  );
}

/** What to say of a prompt for whose exact keys and values there is no room. */
export function refusedPrompt(
  { granted }: GpuMemoryError,
  config: LlamaConfig,
  tokens: number,
  { used, bits }: { used: number; bits: string },
): GpuMemoryError {
  const left = Math.max(0, granted - used), fits = Math.floor(left / (2 * sideBytes(config, 1)));
  return new GpuMemoryError(
    `Cannot read a prompt of ${tokens} tokens as the keys and values of one layer take ${
      2 * sideBytes(config, tokens)
    } ` +
      `bytes, exact, and the GPU has ${left} left: ${remedy(fits, bits, "shorten it to")}`,
    granted,
  );
}

function remedy(fits: number, bits: string, action: string): string {
  const advice = fits > 0 ? [`${action} at most ${fits}`] : [];
  if (bits !== "1,1") advice.push("keep the cache at kv bits 1");
  return advice.join(", or ") || "use a smaller model";
}
