// Weights as f32: 64 bytes a unit of 16. See weight_q8_0.wgsl for what these functions are.
#import weights_buffer // @param STORE
#import dot16

const WEIGHT_UNITS: u32 = 1u;

fn weight_unit(i: u32) -> u32 {
    return i;
}

fn weight16(unit: u32) -> mat4x4f {
    let at = 4u * unit;
    return mat4x4f(bitcast<vec4f>(weight_words(at)), bitcast<vec4f>(weight_words(at + 1u)), bitcast<vec4f>(weight_words(at + 2u)),
        bitcast<vec4f>(weight_words(at + 3u)));
}

fn weight_dot(unit: u32, x: mat4x4f) -> f32 {
    return dot16(weight16(unit), x);
}
