// Packed codes (src/core/pack.ts): codes u32 [blocks][K][bits]; in a block of 32 tokens a field of b bits takes b
// words, token t at bits [b*t, b*t + b). The importing kernel declares the binding codes: array<u32>.

/// The code of `bits` bits of token `t` (0..31) in the field that starts at word `at`.
fn code_get(at: u32, bits: u32, t: u32) -> u32 {
    let bit = t * bits;
    let word = at + (bit >> 5u);
    let shift = bit & 31u;
    var code = codes[word] >> shift;
    if shift + bits > 32u { code |= codes[word + 1u] << (32u - shift); }
    return code & ((1u << bits) - 1u);
}
