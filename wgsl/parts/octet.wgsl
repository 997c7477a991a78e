// Eight tokens' vectors from their packed codes (src/core/pack.ts), four complex numbers (a quad) a lane: an octet of
// codes is whole words, three of a pair stage and two of a sub stage, so each code is cut out by constant shifts.
//
//   codes  u32    [blocks][K][bits]
//   more   u32                       further codes of some tokens, by rank; with MORE = 0 nothing of it is read
//   quads  vec2u  [S][QUADS]         x: the stage's field over the quad, its first word in a block, and STAGE_PAIR;
//                                    y: the stage's first row of the table  (src/kernels/packed_codes.ts)
//
// The importing kernel imports a words part, declares these bindings, QUADS, and STAGES of all tokens and MORE of some.

const STAGE_PAIR: u32 = 0x80000000u;

struct Octet {
    a: Words,
    b: Words,
    c: Words,
    d: Words,
    e: Words,
    f: Words,
    g: Words,
    h: Words,
}

fn octet_words(is_further: bool, block: u32, octet: u32, field: u32) -> vec3u {
    let at = block + (field & 0xffffu) + select(2u, 3u, field >= STAGE_PAIR) * octet;
    if is_further { return vec3u(more[at], more[at + 1u], more[at + 2u]); }
    return vec3u(codes[at], codes[at + 1u], codes[at + 2u]);
}

fn octet_pair(x: Words, at: u32, code: u32) -> Words {
    let u = words_at(at + ((code >> 6u) & 63u) * QUADS);
    let v = words_at(at + (64u + (code & 63u)) * QUADS);
    return words_add(x, words_add(u, v));
}

fn octet_sub(x: Words, at: u32, code: u32) -> Words {
    return words_add(x, words_at(at + (code & 255u) * QUADS));
}

/// The sums of the stages of all tokens, or (give a literal) the further ones, of octet 0 to 3 of the block whose codes
/// begin at word `block`; the head's table begins at row `row`.
fn octet_decode(is_further: bool, block: u32, octet: u32, row: u32, quad: u32) -> Octet {
    let first = select(0u, STAGES, is_further);
    let end = select(STAGES, STAGES + MORE, is_further);
    let none = words_none();
    var x = Octet(none, none, none, none, none, none, none, none);
    var field = quads[first * QUADS + quad];
    var w = octet_words(is_further, block, octet, field.x);
    for (var s = first; s < end; s++) {
        let is_pair = field.x >= STAGE_PAIR;
        let at = (row + field.y) * QUADS + quad;
        let c = w;
        field = quads[min(s + 1u, end - 1u) * QUADS + quad]; // the next stage's codes travel meanwhile
        w = octet_words(is_further, block, octet, field.x);
        if is_pair {
            x.a = octet_pair(x.a, at, c.x);
            x.b = octet_pair(x.b, at, c.x >> 12u);
            x.c = octet_pair(x.c, at, (c.x >> 24u) | (c.y << 8u));
            x.d = octet_pair(x.d, at, c.y >> 4u);
            x.e = octet_pair(x.e, at, c.y >> 16u);
            x.f = octet_pair(x.f, at, (c.y >> 28u) | (c.z << 4u));
            x.g = octet_pair(x.g, at, c.z >> 8u);
            x.h = octet_pair(x.h, at, c.z >> 20u);
        } else {
            x.a = octet_sub(x.a, at, c.x);
            x.b = octet_sub(x.b, at, c.x >> 8u);
            x.c = octet_sub(x.c, at, c.x >> 16u);
            x.d = octet_sub(x.d, at, c.x >> 24u);
            x.e = octet_sub(x.e, at, c.y);
            x.f = octet_sub(x.f, at, c.y >> 8u);
            x.g = octet_sub(x.g, at, c.y >> 16u);
            x.h = octet_sub(x.h, at, c.y >> 24u);
        }
    }
    return x;
}
