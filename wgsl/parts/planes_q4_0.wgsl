// Sixteen columns of Q4_0 as matvec_planes reads them: half a block's nibbles, the low ones eight columns and the high
// ones the eight that lie 16 further. They come as 16 times what they are.
alias Load = vec2u;

const LEVEL: f32 = 16.0;

fn signed_bytes(x: Load) -> vec4u {
    return (vec4u(x << vec2u(4u), x) & vec4u(0xf0f0f0f0u)) ^ vec4u(0x80808080u); // 16 (q - 8)
}

/// The quad of x under the i-th four bytes of a lane.
fn quad_of(lane: u32, i: u32) -> u32 {
    return 8u * (lane >> 1u) + 2u * (lane & 1u) + (i & 1u) + 4u * (i >> 1u);
}
