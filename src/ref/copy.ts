/** Twin of `wgsl/copy.wgsl`. */
export function copyRef(source: Uint32Array): Uint32Array {
  return source.slice();
}
