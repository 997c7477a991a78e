// attn_codes_scores: what new queries score against keys that are packed codes (CommVQ, section 4: words commute with
// RoPE, so the sum of words is rotated, and every query head of a key/value head shares it).
//
//   key[t][d] = exp(i p theta_d) * sum_s word_s(code[t][s])[d]        p: the token's position
//   s[h][t]   = scale[t] * Re sum_d conj(q[h][d]) * key[t][d]     words of further stages count times the token's gain
//
//   q           f32    [Q][HEAD_DIM]        rotated and scaled by 1/sqrt(HEAD_DIM); channels d and d + P are pair d
//   table       u32    [K][ROWS][P]         complex numbers in half precision; COMMUTED: f32 [Q][ROWS][P][2], see q_table
//   codes       u32    [blocks][K][bits]    src/core/pack.ts
//   quads       u32    [S][P/4][2]          parts/octet.wgsl
//   scales      f16    [T]                  packed in pairs
//   rope_table  vec2f  [256 + context/256][P]
//   more        u32                         further codes of some tokens, parts/further.wgsl
//   scores      Heads  [K][CHUNKS][capacity]
//
// Workgroups: x splits the tokens, y is a chunk of a key/value head's query heads (with MORE heavy heads come first, see
// further_head). TOKEN_LANES lanes take eight tokens of a head, four pairs of a row (16 bytes) each. Further stages follow, of eight tokens that have them at a time, added to
// scores that the workgroup has written. COMMUTED takes the tables of q_table, one a query head, with HEADS = 1.
#import heads_4    // @param HEADS_PART heads_1, heads_2 or heads_4
#import words_half // @param WORDS words_half, words_f16 or words_f32
#import octet
#import further
#import turns
#import token_scale
#import fold

const WG: u32 = 64u;            // @param lanes per workgroup
const TOKEN_LANES: u32 = 16u;   // @param lanes per token, a power of two from 8: at least QUADS
const HEAD_DIM: u32 = 128u;     // @param channels per head, a multiple of 8
const GROUP: u32 = 4u;          // @param query heads per key/value head
const CHUNKS: u32 = 1u;         // @param chunks of HEADS of them
const STAGES: u32 = 11u;        // @param stages of all tokens
const MORE: u32 = 0u;           // @param further stages of some
const ROWS: u32 = 1408u;        // @param rows of the table
const BITS: u32 = 132u;         // @param bits of a token and head
const MORE_BITS: u32 = 0u;      // @param bits of a token's further codes and gain
const COMMUTED: bool = false;   // @param tables are of queries times words
const QUADS: u32 = HEAD_DIM / 8u;
const GROUPS: u32 = WG / TOKEN_LANES;

struct Params {
    base: u32,     // position of the stream's token 0
    first: u32,    // first token, a multiple of 32
    tokens: u32,
    capacity: u32, // tokens that the scores have room for, a multiple of 8
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4f>;
@group(0) @binding(2) var<storage, read> table: array<TableQuad>;
@group(0) @binding(3) var<storage, read> codes: array<u32>;
@group(0) @binding(4) var<storage, read> quads: array<vec2u>;
@group(0) @binding(5) var<storage, read> scales: array<u32>;
@group(0) @binding(6) var<storage, read> rope_table: array<vec4f>;
@group(0) @binding(7) var<storage, read> more: array<u32>;
@group(0) @binding(8) var<storage, read_write> scores: array<Heads>;

/// A lane's part of the queries, all heads of the chunk by number.
struct Query {
    re0: Heads,
    re1: Heads,
    re2: Heads,
    re3: Heads,
    im0: Heads,
    im1: Heads,
    im2: Heads,
    im3: Heads,
}

/// Numbers 4 quad and on of four heads; a chunk's missing heads repeat the group's last.
fn load_q(first: u32, head: u32, at: u32) -> mat4x4f {
    let a = q[(first + min(head, GROUP - 1u)) * 2u * QUADS + at];
    let b = q[(first + min(head + 1u, GROUP - 1u)) * 2u * QUADS + at];
    let c = q[(first + min(head + 2u, GROUP - 1u)) * 2u * QUADS + at];
    let d = q[(first + min(head + 3u, GROUP - 1u)) * 2u * QUADS + at];
    return transpose(mat4x4f(a, b, c, d));
}

/// The lane's part of a token's scores.
fn query_dot(x: Query, turn: Turn, word: Words) -> Heads {
    let y = turn_mul(turn, Turn(words_re(word), words_im(word)));
    if COMMUTED { return x.re0 * ((y.re.x + y.re.y) + (y.re.z + y.re.w)); }
    let re = fma(x.re3, Heads(y.re.w), fma(x.re2, Heads(y.re.z), fma(x.re1, Heads(y.re.y), x.re0 * y.re.x)));
    return fma(x.im3, Heads(y.im.w), fma(x.im2, Heads(y.im.z), fma(x.im1, Heads(y.im.y), fma(x.im0, Heads(y.im.x), re))));
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) wg: vec3u,
    @builtin(num_workgroups) grid: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    fold_begin();
    let group = lane / TOKEN_LANES;
    let own = lane % TOKEN_LANES;
    let kv_heads = grid.y / CHUNKS;
    let chunk = wg.y % CHUNKS;
    var head = wg.y / CHUNKS;
    if MORE > 0u { head = further_head(head, kv_heads, lane); }
    let out = (head * CHUNKS + chunk) * params.capacity;

    let held = f32(own < QUADS); // the last lanes may lie past the row's end
    let quad = min(own, QUADS - 1u);
    var row = head * ROWS;
    if COMMUTED { row = (head * CHUNKS + chunk) * ROWS; }

    let re = load_q(head * GROUP, chunk * HEADS, quad) * held;
    let im = load_q(head * GROUP, chunk * HEADS, quad + QUADS) * held;
    var own_q = Query(
        heads_of(re[0]), heads_of(re[1]), heads_of(re[2]), heads_of(re[3]),
        heads_of(im[0]), heads_of(im[1]), heads_of(im[2]), heads_of(im[3]),
    );
    if COMMUTED { own_q.re0 = Heads(held); }
    let step = turn_row(1u, quad); // one position further

    let octets = (params.tokens + 7u) / 8u;
    let span = (octets + grid.x * GROUPS - 1u) / (grid.x * GROUPS) * GROUPS;
    let begin = wg.x * span;
    let end = min(begin + span, octets);
    for (var n = begin; n < end; n += GROUPS) {
        let octet = min(n + group, octets - 1u);
        let token = params.first + 8u * octet;
        let block = ((token >> 5u) * kv_heads + head) * BITS;
        let x = octet_decode(false, block, (token >> 3u) & 3u, row, quad);

        var part: Eight;
        var turn = turn_at(params.base + token, quad);
        part.a = query_dot(own_q, turn, x.a);
        turn = turn_mul(turn, step);
        part.b = query_dot(own_q, turn, x.b);
        turn = turn_mul(turn, step);
        part.c = query_dot(own_q, turn, x.c);
        turn = turn_mul(turn, step);
        part.d = query_dot(own_q, turn, x.d);
        turn = turn_mul(turn, step);
        part.e = query_dot(own_q, turn, x.e);
        turn = turn_mul(turn, step);
        part.f = query_dot(own_q, turn, x.f);
        turn = turn_mul(turn, step);
        part.g = query_dot(own_q, turn, x.g);
        turn = turn_mul(turn, step);
        part.h = query_dot(own_q, turn, x.h);

        let sum = fold_eight(part, lane);
        let at = 8u * octet + (own & 7u);
        if own < 8u && at < params.tokens && n + group < end { scores[out + at] = sum * scale_at(at); }
    }
    if MORE > 0u {
        storageBarrier(); // scores of the stages of all are added to
        let first = params.first + 8u * begin;
        let last = params.first + min(8u * end, params.tokens);
        let ranks = further_ranks(first, last, head, kv_heads);
        for (var rank = ranks.x & ~7u; rank < ranks.y; rank += 8u * GROUPS) {
            further_list(first, last, head, kv_heads, rank, lane);
            let list = 8u * group;
            var part: Eight;
            if rank + list < ranks.y {
                let x = further_decode(head, rank + list, row, quad);
                part.a = query_dot(own_q, turn_at(params.base + sh_tokens[list], quad), x.a);
                part.b = query_dot(own_q, turn_at(params.base + sh_tokens[list + 1u], quad), x.b);
                part.c = query_dot(own_q, turn_at(params.base + sh_tokens[list + 2u], quad), x.c);
                part.d = query_dot(own_q, turn_at(params.base + sh_tokens[list + 3u], quad), x.d);
                part.e = query_dot(own_q, turn_at(params.base + sh_tokens[list + 4u], quad), x.e);
                part.f = query_dot(own_q, turn_at(params.base + sh_tokens[list + 5u], quad), x.f);
                part.g = query_dot(own_q, turn_at(params.base + sh_tokens[list + 6u], quad), x.g);
                part.h = query_dot(own_q, turn_at(params.base + sh_tokens[list + 7u], quad), x.h);
            }

            let sum = fold_eight(part, lane);
            let i = list + (own & 7u);
            if own < 8u && rank + i >= ranks.x && rank + i < ranks.y {
                let at = sh_tokens[i] - params.first;
                scores[out + at] += sum * scale_at(at) * further_gain(head, rank + i);
            }
        }
    }
}
