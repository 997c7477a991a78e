// The importing kernel declares the binding scales: array<u32>, halves in pairs, and params.first, even.

/// Scale of token t from the first on.
fn scale_at(t: u32) -> f32 {
    let both = unpack2x16float(scales[(params.first + t) >> 1u]);
    return select(both.x, both.y, (t & 1u) != 0u);
}
