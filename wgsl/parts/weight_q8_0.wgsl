// Weights in blocks of 32 bytes with a scale: 16 bytes a unit of 16. Layouts: src/core/weight_layout.ts.
//
// Every weight_* part declares these bindings and functions. Units are counted through the matrix, row after row.
#import weights_buffer // @param STORE
#import dot16
#import bytes16

/// Units that a lane takes together, since one load brings them: weight_unit(i) for that many consecutive i.
const WEIGHT_UNITS: u32 = 1u;

/// The i-th unit in the order of loads.
fn weight_unit(i: u32) -> u32 {
    return i;
}

fn bytes_of(unit: u32) -> mat4x4f {
    return bytes16(weight_words(unit) ^ vec4u(0x80808080u), 128.0);
}

fn scale_of(unit: u32) -> f32 {
    return unpack2x16float(scale_pair(unit >> 2u) >> ((unit & 2u) << 3u)).x;
}

/// The 16 weights of a unit, in order.
fn weight16(unit: u32) -> mat4x4f {
    return scale_of(unit) * bytes_of(unit);
}

/// Their inner product with 16 numbers.
fn weight_dot(unit: u32, x: mat4x4f) -> f32 {
    return scale_of(unit) * dot16(bytes_of(unit), x);
}
