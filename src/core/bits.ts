/**
 * The three figures of a cache's size in bits an element: codes and scales (`bitsCode`), with its exact tokens, with all
 * that its tokens share.
 *
 * @module
 */

/** With exact tokens, in f16: `near` of `tokens`, or all where there are fewer. */
export function bitsEffective(bitsCode: number, near: number, tokens: number): number {
  return bitsCode + (16 - bitsCode) * Math.min(tokens, near) / tokens;
}

/** With codebooks and whatever else all tokens share, over the `elements` numbers of all keys and values. */
export function bitsAll(bitsEffective: number, sharedBytes: number, elements: number): number {
  return bitsEffective + 8 * sharedBytes / elements;
}
