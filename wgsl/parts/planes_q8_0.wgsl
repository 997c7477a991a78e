// Sixteen columns of Q8_0 as matvec_planes reads them: half a block, bytes with a sign.
alias Load = vec4u;

const LEVEL: f32 = 1.0;

fn signed_bytes(x: Load) -> vec4u {
    return x;
}

/// The quad of x under the i-th four bytes of a lane.
fn quad_of(lane: u32, i: u32) -> u32 {
    return 4u * lane + i;
}
