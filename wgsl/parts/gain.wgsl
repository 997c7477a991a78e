/// What a token's further stages are multiplied by: 2^(g/2), g from 0 to 15.
fn gain_of(g: u32) -> f32 {
    return bitcast<f32>((127u + (g >> 1u)) << 23u) * select(1.0, 1.4142135623730951, (g & 1u) == 1u);
}
