// Codes of the further stages that some tokens have: those that the codec's first STAGES miss by too much.
//
//   more  u32  index [blocks][K][2]         which of a block's tokens have some, and how many of the head's earlier tokens do
//              codes [K][room][MORE_WORDS]  from params.more_at on: a token's fields, bit after bit  (src/core/pack.ts)
//
// The importing kernel imports octet, declares the binding more: array<u32>, MORE and MORE_WORDS, and has more_at and room
// among its parameters. With MORE = 0 nothing is read.

/// Tokens of an octet that have further codes, as bits, and the first word of the first one's.
struct Further {
    left: u32,
    at: u32,
}

/// `block` counts blocks and heads.
fn further_of(block: u32, head: u32, octet: u32) -> Further {
    let mask = more[2u * block];
    let earlier = more[2u * block + 1u] + countOneBits(mask & ((1u << (8u * octet)) - 1u));
    return Further((mask >> (8u * octet)) & 255u, params.more_at + (head * params.room + earlier) * MORE_WORDS);
}

/// The sum of the further stages of the token whose codes begin at word `at`.
fn further_decode(at: u32, row: u32, quad: u32) -> Words {
    var x = words_none();
    for (var s = STAGES; s < STAGES + MORE; s++) {
        let field = quads[s * QUADS + quad];
        let bit = field.x & 0xffffu;
        let word = at + (bit >> 5u);
        let code = (more[word] >> (bit & 31u)) | ((more[word + 1u] << 1u) << (31u - (bit & 31u)));
        let first = (row + field.y) * QUADS + quad;
        if field.x >= STAGE_PAIR { x = octet_pair(x, first, code); } else { x = octet_sub(x, first, code); }
    }
    return x;
}
