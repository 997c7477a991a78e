// Weights in blocks of 256 nibbles, w = d s q - e m, with a 6-bit scale s and minimum m for every 32 of them. A block is
// nine words of 16 bytes: d, e and the packed s and m; then low nibbles for 32 weights and high ones for the next 32,
// four times. See weight_q8_0.wgsl for what these functions are.
#import weights_buffer // @param STORE
#import dot16

const WEIGHT_UNITS: u32 = 2u;

fn weight_unit(i: u32) -> u32 {
    return (i & ~3u) | ((i & 1u) << 1u) | ((i >> 1u) & 1u);
}

fn nibbles_of(unit: u32) -> mat4x4f {
    let word = weight_words((unit >> 4u) * 9u + 1u + ((unit >> 1u) & 6u) + (unit & 1u));
    let q = (word >> vec4u((unit & 2u) << 1u)) & vec4u(0x0f0f0f0fu);
    return mat4x4f(vec4f(unpack4xU8(q.x)), vec4f(unpack4xU8(q.y)), vec4f(unpack4xU8(q.z)), vec4f(unpack4xU8(q.w)));
}

/// d s and e m.
fn scale_of(unit: u32) -> vec2f {
    let head = weight_words((unit >> 4u) * 9u);
    let upper = (unit & 8u) != 0u; // the last four of the eight keep their upper two bits with the first four
    let low = select(head.yz, vec2u(head.w, head.w >> 4u) & vec2u(0x0f0f0f0fu), upper);
    let high = select(vec2u(), (head.yz >> vec2u(2u)) & vec2u(0x30303030u), upper);
    let packed = ((low | high) >> vec2u((unit & 6u) << 2u)) & vec2u(63u);
    return unpack2x16float(head.x) * vec2f(packed);
}

fn weight16(unit: u32) -> mat4x4f {
    let scale = scale_of(unit);
    let least = vec4f(scale.y);
    return scale.x * nibbles_of(unit) - mat4x4f(least, least, least, least);
}

fn weight_dot(unit: u32, x: mat4x4f) -> f32 {
    let scale = scale_of(unit);
    return scale.x * dot16(nibbles_of(unit), x) - scale.y * sum16(x);
}
