// Columns of Q4_0 as matvec_planes reads them: a block's nibbles, the low ones its first sixteen columns and the high ones
// the others. They come as 16 times what they are.
alias Load = vec4u;

const SIXTEENS: u32 = 2u; // of columns in a load
const LEVEL: f32 = 16.0;

/// Sixteen columns' bytes, with a sign.
fn signed_bytes(x: Load, sixteen: u32) -> vec4u {
    return (select(x, x << vec4u(4u), sixteen == 0u) & vec4u(0xf0f0f0f0u)) ^ vec4u(0x80808080u); // 16 (q - 8)
}
