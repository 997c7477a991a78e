// code_decode: vectors of packed codes, as an exact cache holds them.
//
//   out[k][slot + t] = scale[first + t] * sum_s word_s(code[first + t][s]), turned to its position if ROTATE;
//   words of further stages count times the token's gain
//
//   table       u32    [K][ROWS][P]         complex numbers in half precision
//   codes       u32    [blocks][K][bits]    src/core/pack.ts
//   quads       u32    [S][P/4][2]          parts/octet.wgsl
//   scales      f16    [T]                  packed in pairs
//   rope_table  vec2f  [256 + context/256][P]
//   more        u32                         further codes and gains of some tokens: src/core/pack.ts
//   out         f16    [K][capacity][HEAD_DIM], packed in pairs
//
// A lane takes four pairs of eight tokens: x covers octets and quads, y heads. What half precision cannot hold is
// clamped to its largest.
#import words_half // @param WORDS words_half or words_f16
#import octet
#import further_at
#import turns
#import halves

const WG: u32 = 64u;          // @param lanes per workgroup
const HEAD_DIM: u32 = 128u;   // @param channels per head, a multiple of 8
const STAGES: u32 = 11u;      // @param stages of all tokens
const MORE: u32 = 0u;         // @param further stages of some
const ROWS: u32 = 1408u;      // @param rows of the table
const BITS: u32 = 132u;       // @param bits of a token and head
const MORE_BITS: u32 = 0u;    // @param bits of a token's further codes and gain
const ROTATE: bool = false;   // @param keys come out rotated
const QUADS: u32 = HEAD_DIM / 8u;

struct Params {
    base: u32,     // position of the stream's token 0
    first: u32,    // first token, a multiple of 8
    tokens: u32,
    slot: u32,     // where the first token goes
    capacity: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> table: array<TableQuad>;
@group(0) @binding(2) var<storage, read> codes: array<u32>;
@group(0) @binding(3) var<storage, read> quads: array<vec2u>;
@group(0) @binding(4) var<storage, read> scales: array<u32>;
@group(0) @binding(5) var<storage, read> rope_table: array<vec4f>;
@group(0) @binding(6) var<storage, read> more: array<u32>;
@group(0) @binding(7) var<storage, read_write> out: array<vec2u>;

/// The sum of the further stages, before its gain, of the token of a head whose rank is `rank`.
fn further_words(head: u32, rank: u32, quad: u32) -> Words {
    let block = further_block(head, rank);
    var x = words_none();
    for (var s = STAGES; s < STAGES + MORE; s++) {
        let field = quads[s * QUADS + quad];
        let is_pair = field.x >= STAGE_PAIR;
        let bit = (rank & 31u) * select(8u, 12u, is_pair);
        let word = block + (field.x & 0xffffu) + (bit >> 5u);
        let code = (more[word] >> (bit & 31u)) | ((more[word + 1u] << 1u) << (31u - (bit & 31u)));
        let first = (head * ROWS + field.y) * QUADS + quad;
        if is_pair { x = octet_pair(x, first, code); } else { x = octet_sub(x, first, code); }
    }
    return x;
}

/// Writes token t, whose first stages are x; `index` is where its block's begins in `more`.
fn store(x: Words, head: u32, t: u32, quad: u32, index: u32) {
    if t >= params.tokens { return; }
    let token = params.first + t;
    var y = Turn(words_re(x), words_im(x));
    if MORE > 0u {
        let mask = more[index];
        let bit = token & 31u;
        if ((mask >> bit) & 1u) == 1u {
            let rank = more[index + 1u] + countOneBits(mask & ((1u << bit) - 1u));
            let further = further_words(head, rank, quad);
            let gain = further_gain(head, rank);
            y = Turn(y.re + words_re(further) * gain, y.im + words_im(further) * gain);
        }
    }
    let both = unpack2x16float(scales[token >> 1u]);
    let scale = select(both.x, both.y, (token & 1u) != 0u);
    y = Turn(y.re * scale, y.im * scale);
    if ROTATE { y = turn_mul(y, turn_at(params.base + token, quad)); }
    let at = (head * params.capacity + params.slot + t) * 2u * QUADS + quad;
    out[at] = pack(y.re);
    out[at + QUADS] = pack(y.im);
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) wg: vec3u,
    @builtin(num_workgroups) grid: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = wg.x * WG + lane;
    let t = item / QUADS * 8u;
    let quad = item % QUADS;
    if t >= params.tokens { return; }
    let token = params.first + t;
    let block = (token >> 5u) * grid.y + wg.y;
    let index = further_index(token >> 5u, wg.y, grid.y);
    let x = octet_decode(false, block * BITS, (token >> 3u) & 3u, wg.y * ROWS, quad);
    store(x.a, wg.y, t, quad, index);
    store(x.b, wg.y, t + 1u, quad, index);
    store(x.c, wg.y, t + 2u, quad, index);
    store(x.d, wg.y, t + 3u, quad, index);
    store(x.e, wg.y, t + 4u, quad, index);
    store(x.f, wg.y, t + 5u, quad, index);
    store(x.g, wg.y, t + 6u, quad, index);
    store(x.h, wg.y, t + 7u, quad, index);
}
