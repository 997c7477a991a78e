/** Twin of `wgsl/parts/random.wgsl`: four words of random bits for a counter of four words (pcg4d). */
export function random4(counter: readonly [number, number, number, number]): Uint32Array {
  const v = Uint32Array.from(counter, (word) => (Math.imul(word, 1664525) + 1013904223) >>> 0);
  const stir = (): void => {
    v[0]! += Math.imul(v[1]!, v[3]!);
    v[1]! += Math.imul(v[2]!, v[0]!);
    v[2]! += Math.imul(v[0]!, v[1]!);
    v[3]! += Math.imul(v[1]!, v[2]!);
  };
  stir();
  for (let i = 0; i < 4; i++) v[i]! ^= v[i]! >>> 16;
  stir();
  return v;
}
