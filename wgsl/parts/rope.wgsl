// Rotations as complex numbers, vec2f(re, im). The importing kernel declares PAIRS and the binding
// rope_table: array<vec2f>  [256 + T/256][PAIRS]  (src/core/rope_table.ts).

fn complex_mul(a: vec2f, b: vec2f) -> vec2f {
    return vec2f(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}

fn complex_conj(a: vec2f) -> vec2f {
    return vec2f(a.x, -a.y);
}

/// exp(i * position * theta_pair)
fn rope(position: u32, pair: u32) -> vec2f {
    let low = rope_table[(position & 255u) * PAIRS + pair];
    let high = rope_table[(256u + (position >> 8u)) * PAIRS + pair];
    return complex_mul(low, high);
}
