/** Twin of `wgsl/embed.wgsl` in f64: rows of `weights [rows][cols]`; `null` where the matrix has none for an id. */
export function embedRef(weights: ArrayLike<number>, cols: number, ids: ArrayLike<number>): (Float64Array | null)[] {
  const rows = weights.length / cols;
  return Array.from(
    ids,
    (id) => id < rows ? Float64Array.from({ length: cols }, (_, c) => weights[id * cols + c]!) : null,
  );
}
