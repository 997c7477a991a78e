// Sixteen unsigned bytes as numbers, less `zero`. A byte in the low bits of a half-precision 1024 makes it 1024 plus the
// byte, exactly; an H200 unpacks 11e12 halves a second and turns 4e12 integers into floats.

fn bytes4(word: u32, zero: f32) -> vec4f {
    let even = unpack2x16float((word & 0x00ff00ffu) | 0x64006400u);
    let odd = unpack2x16float(((word >> 8u) & 0x00ff00ffu) | 0x64006400u);
    return vec4f(even.x, odd.x, even.y, odd.y) - vec4f(1024.0 + zero);
}

fn bytes16(words: vec4u, zero: f32) -> mat4x4f {
    return mat4x4f(bytes4(words.x, zero), bytes4(words.y, zero), bytes4(words.z, zero), bytes4(words.w, zero));
}
