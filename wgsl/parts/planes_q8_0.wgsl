// Columns of Q8_0 as matvec_planes reads them: half a block, bytes with a sign.
alias Load = vec4u;

const SIXTEENS: u32 = 1u; // of columns in a load
const LEVEL: f32 = 1.0;

/// Sixteen columns' bytes, with a sign.
fn signed_bytes(x: Load, sixteen: u32) -> vec4u {
    return x;
}
