// Weights as the upper halves of f32: 32 bytes a unit of 16. See weight_q8_0.wgsl for what these functions are.
#import weights_buffer // @param STORE
#import dot16

const WEIGHT_UNITS: u32 = 1u;

fn weight_unit(i: u32) -> u32 {
    return i;
}

fn unpack_bf16(words: vec2u) -> vec4f {
    let even = bitcast<vec2f>(words << vec2u(16u));
    let odd = bitcast<vec2f>(words & vec2u(0xffff0000u));
    return vec4f(even.x, odd.x, even.y, odd.y);
}

fn weight16(unit: u32) -> mat4x4f {
    let low = weight_words(2u * unit);
    let high = weight_words(2u * unit + 1u);
    return mat4x4f(unpack_bf16(low.xy), unpack_bf16(low.zw), unpack_bf16(high.xy), unpack_bf16(high.zw));
}

fn weight_dot(unit: u32, x: mat4x4f) -> f32 {
    return dot16(weight16(unit), x);
}
