// Weights in blocks of 256 numbers of 6 bits, w = d s (q - 32), with an 8-bit scale s for every 16 of them. A block is
// thirteen words of 16 bytes: eight of low nibbles, four of high pairs of bits, and the scales; the two halves of a
// block are alike, and in a half the nibbles of a byte are 64 weights apart, the pairs of bits 32. See weight_q8_0.wgsl
// for what these functions are.
#import weights_buffer // @param STORE
#import dot16
#import bytes16

const WEIGHT_UNITS: u32 = 2u; // four share a load, but four at once take too many registers

fn weight_unit(i: u32) -> u32 {
    return (i & ~7u) | ((i & 3u) << 1u) | ((i >> 2u) & 1u);
}

/// q - 32
fn six_bits_of(unit: u32) -> mat4x4f {
    let block = (unit >> 4u) * 13u;
    let half = (unit >> 3u) & 1u;
    let low = (weight_words(block + 4u * half + (unit & 3u)) >> vec4u(unit & 4u)) & vec4u(0x0f0f0f0fu);
    let high = (weight_words(block + 8u + 2u * half + (unit & 1u)) >> vec4u(unit & 6u)) & vec4u(0x03030303u);
    return bytes16(low | (high << vec4u(4u)), 32.0);
}

/// d s
fn scale_of(unit: u32) -> f32 {
    let block = unit >> 4u;
    let words = weight_words(block * 13u + 12u);
    let pair = select(words.xy, words.zw, (unit & 8u) != 0u);
    let word = select(pair.x, pair.y, (unit & 4u) != 0u);
    let s = extractBits(bitcast<i32>(word), (unit & 3u) << 3u, 8u);
    return unpack2x16float(scale_pair(block >> 1u) >> ((block & 1u) << 4u)).x * f32(s);
}

fn weight16(unit: u32) -> mat4x4f {
    return scale_of(unit) * six_bits_of(unit);
}

fn weight_dot(unit: u32, x: mat4x4f) -> f32 {
    return scale_of(unit) * dot16(six_bits_of(unit), x);
}
