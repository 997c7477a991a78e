// Weights in blocks of 32 nibbles with a scale, w = d (q - 8): the low nibbles of 16 bytes are a unit, the high ones the
// next. See weight_q8_0.wgsl for what these functions are.
#import weights_buffer // @param STORE
#import dot16
#import bytes16

const WEIGHT_UNITS: u32 = 2u;

fn weight_unit(i: u32) -> u32 {
    return i;
}

/// q - 8
fn nibbles_of(unit: u32) -> mat4x4f {
    return bytes16((weight_words(unit >> 1u) >> vec4u((unit & 1u) << 2u)) & vec4u(0x0f0f0f0fu), 8.0);
}

fn scale_of(unit: u32) -> f32 {
    return unpack2x16float(scale_pair(unit >> 2u) >> ((unit & 2u) << 3u)).x;
}

fn weight16(unit: u32) -> mat4x4f {
    return scale_of(unit) * nibbles_of(unit);
}

fn weight_dot(unit: u32, x: mat4x4f) -> f32 {
    return scale_of(unit) * dot16(nibbles_of(unit), x);
}
