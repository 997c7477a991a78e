// Codes of a block's 32 tokens as the words they are packed in (src/core/pack.ts): token t's code is at bit t * bits.
var<workgroup> sh_code: array<u32, 32>;

/// Word `word` of a field of `bits` bits; tokens from `tokens` on have code 0.
fn packed(word: u32, bits: u32, tokens: u32) -> u32 {
    var out = 0u;
    for (var t = word * 32u / bits; t * bits < word * 32u + 32u; t++) {
        let code = select(0u, sh_code[t], t < tokens);
        let bit = i32(t * bits) - i32(word * 32u);
        out |= select(code >> u32(-bit), code << u32(bit), bit >= 0);
    }
    return out;
}
