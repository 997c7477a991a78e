// attn_codes_values: partial attention states of scored tokens whose values are packed codes; values are decoded.
//
//   value[t]      = scale[t] * sum_s word_s(code[t][s])     words of further stages count times the token's gain
//   partial_md    = (m, d): m = max_t s[t], d = sum_t exp(s[t] - m), over the split's tokens
//   partial_o     = sum_t exp(s[t] - m) * value[t]
//
//   scores      Heads  [K][CHUNKS][capacity]           see attn_codes_scores
//   table       u32    [K][ROWS][P]                    complex numbers in half precision
//   codes       u32    [blocks][K][bits]               src/core/pack.ts
//   quads       u32    [S][P/4][2]                     parts/octet.wgsl
//   scales      f16    [T]                             packed in pairs
//   more        u32                                    further codes of some tokens, parts/further.wgsl
//   partial_o   f32    [states][Q][HEAD_DIM]           from state `state` on, one a split
//   partial_md  vec2f  [states][Q]
//
// Workgroups: x splits the tokens, y is a chunk of a key/value head's query heads, as in attn_codes_scores. A workgroup
// finds its split's largest scores, then turns two tokens a lane into weights at a time; TOKEN_LANES lanes decode eight
// tokens, four pairs of a row each, and add them up for all heads of the chunk. Further stages follow, of eight tokens
// that have them at a time, each weighed again. A split without tokens has m = F32_LOWEST, d = 0, o = 0.
#import heads_4    // @param HEADS_PART heads_1, heads_2 or heads_4
#import words_half // @param WORDS words_half or words_f16
#import octet
#import further
#import reduce
#import softmax_weights
#import quad_sums

const WG: u32 = 64u;           // @param lanes per workgroup
const TOKEN_LANES: u32 = 16u;  // @param lanes per token, a power of two from 8: at least QUADS
const HEAD_DIM: u32 = 128u;    // @param channels per head, a multiple of 8
const GROUP: u32 = 4u;         // @param query heads per key/value head
const CHUNKS: u32 = 1u;        // @param chunks of HEADS of them
const STAGES: u32 = 11u;       // @param stages of all tokens
const MORE: u32 = 0u;          // @param further stages of some
const ROWS: u32 = 1408u;       // @param rows of the table
const BITS: u32 = 132u;        // @param bits of a token and head
const MORE_BITS: u32 = 0u;     // @param bits of a token's further codes and gain
const QUADS: u32 = HEAD_DIM / 8u;
const GROUPS: u32 = WG / TOKEN_LANES;
const STEP: u32 = 8u * GROUPS; // tokens that are decoded at a time
const TILE: u32 = 2u * WG;     // tokens that are weighed at a time

struct Params {
    first: u32,    // first token, a multiple of 32
    tokens: u32,
    capacity: u32, // tokens that the scores have room for, a multiple of 8
    state: u32,    // partial state of the first split
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scores: array<Heads>;
@group(0) @binding(2) var<storage, read> table: array<TableQuad>;
@group(0) @binding(3) var<storage, read> codes: array<u32>;
@group(0) @binding(4) var<storage, read> quads: array<vec2u>;
@group(0) @binding(5) var<storage, read> scales: array<u32>;
@group(0) @binding(6) var<storage, read> more: array<u32>;
@group(0) @binding(7) var<storage, read_write> partial_o: array<f32>;
@group(0) @binding(8) var<storage, read_write> partial_md: array<vec2f>;

var<workgroup> sh_heads: array<Heads, 2u * WG>;

/// Adds eight tokens by their weights from `first` on.
fn sums_add_eight(o: Sums, first: u32, x: Octet) -> Sums {
    var sum = sums_add(o, sh_heads[first], x.a);
    sum = sums_add(sum, sh_heads[first + 1u], x.b);
    sum = sums_add(sum, sh_heads[first + 2u], x.c);
    sum = sums_add(sum, sh_heads[first + 3u], x.d);
    sum = sums_add(sum, sh_heads[first + 4u], x.e);
    sum = sums_add(sum, sh_heads[first + 5u], x.f);
    sum = sums_add(sum, sh_heads[first + 6u], x.g);
    return sums_add(sum, sh_heads[first + 7u], x.h);
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) wg: vec3u,
    @builtin(num_workgroups) grid: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = lane / TOKEN_LANES;
    let kv_heads = grid.y / CHUNKS;
    let chunk = wg.y % CHUNKS;
    var head = wg.y / CHUNKS;
    if MORE > 0u { head = further_head(head, kv_heads, lane); }
    let scored = (head * CHUNKS + chunk) * params.capacity;
    let own = lane % TOKEN_LANES; // may lie past the row's end
    let quad = min(own, QUADS - 1u);

    let span = (params.tokens + grid.x * STEP - 1u) / (grid.x * STEP) * STEP;
    let begin = wg.x * span;
    let end = min(begin + span, params.tokens);
    let m = scores_max(scored, begin, end, lane);

    var d = Heads();
    var o = sums_none();
    for (var tile = begin; tile < end; tile += TILE) {
        workgroupBarrier();
        for (var i = lane; i < TILE; i += WG) {
            var w = Heads();
            if tile + i < end {
                w = exp(scores[scored + tile + i] - m);
                d += w;
                w *= scale_at(tile + i);
            }
            sh_heads[i] = w;
        }
        workgroupBarrier();
        for (var i = 8u * group; i < min(TILE, end - tile); i += STEP) {
            let token = params.first + tile + i;
            let block = ((token >> 5u) * kv_heads + head) * BITS;
            o = sums_add_eight(o, i, octet_decode(false, block, (token >> 3u) & 3u, head * ROWS, quad));
        }
    }
    if MORE > 0u {
        let first = params.first + begin;
        let last = params.first + end;
        let ranks = further_ranks(first, last, head, kv_heads);
        for (var rank = ranks.x & ~7u; rank < ranks.y; rank += STEP) {
            further_list(first, last, head, kv_heads, rank, lane);
            if lane < STEP {
                var w = Heads();
                if rank + lane >= ranks.x && rank + lane < ranks.y {
                    let t = sh_tokens[lane] - params.first;
                    w = exp(scores[scored + t] - m) * scale_at(t) * further_gain(head, rank + lane);
                }
                sh_heads[lane] = w;
            }
            workgroupBarrier();
            let own_rank = rank + 8u * group;
            if own_rank < ranks.y {
                o = sums_add_eight(o, 8u * group, further_decode(head, own_rank, head * ROWS, quad));
            }
        }
    }

    let heads = GROUP - min(chunk * HEADS, GROUP);
    let out = ((params.state + wg.x) * kv_heads + head) * GROUP + chunk * HEADS;
    sums_store(o, out, heads, quad, own < QUADS, lane);
    let d_all = workgroup_sum4(heads_all(d), lane);
    let m_all = heads_all(m);
    if lane < min(HEADS, heads) { partial_md[out + lane] = vec2f(m_all[lane], d_all[lane]); }
}
