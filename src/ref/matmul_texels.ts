/** Twin of `wgsl/matmul_texels.wgsl` in f64: where weights lie makes no difference. */
export { matmulRef as matmulTexelsRef } from "./matmul.ts";
