// Weights in half precision: 32 bytes a unit of 16. See weight_q8_0.wgsl for what these functions are.
#import weights_buffer // @param STORE
#import dot16

const WEIGHT_UNITS: u32 = 1u;

fn weight_unit(i: u32) -> u32 {
    return i;
}

fn weight16(unit: u32) -> mat4x4f {
    let low = weight_words(2u * unit);
    let high = weight_words(2u * unit + 1u);
    return mat4x4f(vec4f(unpack2x16float(low.x), unpack2x16float(low.y)),
        vec4f(unpack2x16float(low.z), unpack2x16float(low.w)),
        vec4f(unpack2x16float(high.x), unpack2x16float(high.y)),
        vec4f(unpack2x16float(high.z), unpack2x16float(high.w)));
}

fn weight_dot(unit: u32, x: mat4x4f) -> f32 {
    return dot16(weight16(unit), x);
}
