// em_soften: the soft E step of a pair stage, as published (commvq.md 2.2), where many words share a token.
//
//   w_ab = exp((d_min - d_ab) / T) / Z,   d_ab = |x - u_a - v_b|, not squared
//   weights[h][t] = sum_b w_ab [64 a], sum_a w_ab [64 b];   counts[h][part] = sum_t w_ab [64 a][64 b]
//
//   residual  f32  [H][blocks][HEAD_DIM][32]
//   table     u32  [H][128][PAIRS], gram f32 [H][4224]   as in em_assign
//   weights   f32  [H][blocks][32][128]
//   counts    f32  [H][parts][64][64]
//
// One workgroup of 64 lanes per part of two blocks (x) and head (y): no more, as Mesa's CPU driver ends an invocation
// after 65,535 rounds of loops. Lane i finds row i's least distance; rows with none within REACH * T of the token's least
// weigh nothing and are skipped, all but a few once T is small; of the others lane i takes column i. A lane alone touches
// its column of the counts, so they need no atomics.
#import stage_search
#import reduce

const WG: u32 = 64u;
const HEAD_DIM: u32 = 128u; // @param channels per head, a multiple of 8
const PART: u32 = 2u;       // blocks of a part
const REACH: f32 = 18.0;    // exp(-18) is 2^-26

struct Params {
    tokens: u32,
    blocks: u32,
    parts: u32,
    inverse: f32, // 1 / T
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> residual: array<vec4f>;
@group(0) @binding(2) var<storage, read> table: array<vec4u>;
@group(0) @binding(3) var<storage, read> gram: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> weights: array<f32>;
@group(0) @binding(5) var<storage, read_write> counts: array<f32>;

var<workgroup> sh_alpha: array<vec4f, 512>; // [64 a][32 tokens]
var<workgroup> sh_row: array<f32, 64>;      // least squared distance of each row

/// |u_a|^2 - 2<x,u_a> to sh_alpha, beta likewise to sh_tile, for a block's tokens.
fn offsets_of_block(tile_at: u32, row: u32, gram_at: u32, lane: u32) {
    let s = lane >> 2u;
    let p = products(tile_at, row, row + 64u, 0u, PAIRS, lane);
    let a_low = offsets(gram[gram_at + s], p.u_low);
    let a_high = offsets(gram[gram_at + s], p.u_high);
    let b_low = offsets(gram[gram_at + 16u + s], p.v_low);
    let b_high = offsets(gram[gram_at + 16u + s], p.v_high);
    for (var j = 0u; j < 4u; j++) {
        let to = (4u * s + j) * 8u + (lane & 3u);
        sh_alpha[to] = a_low[j];
        sh_alpha[to + 4u] = a_high[j];
        sh_tile[to] = b_low[j];
        sh_tile[to + 4u] = b_high[j];
    }
}

/// beta_b + G_ab of token t.
fn column(t: u32, a: u32, b: u32, gram_at: u32) -> f32 {
    return sh_tile[b * 8u + (t >> 2u)][t & 3u] + gram[gram_at + 32u + b * 16u + (a >> 2u)][a & 3u];
}

fn alpha(t: u32, a: u32) -> f32 {
    return sh_alpha[a * 8u + (t >> 2u)][t & 3u];
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let head = wg.y;
    let row = head * 128u;
    let gram_at = head * 1056u;
    let own = (head * params.parts + wg.x) * 4096u + lane;
    for (var a = 0u; a < 64u; a++) { counts[own + a * 64u] = 0.0; }

    for (var block = wg.x * PART; block < min(params.blocks, (wg.x + 1u) * PART); block++) {
        let tile_at = (head * params.blocks + block) * HEAD_DIM * 8u;
        workgroupBarrier(); // lanes may still be at the previous block's tokens
        offsets_of_block(tile_at, row, gram_at, lane);
        for (var t = 0u; t < min(32u, params.tokens - block * 32u); t++) {
            var square = 0.0;
            for (var c = lane; c < HEAD_DIM; c += WG) {
                let x = residual[tile_at + c * 8u + (t >> 2u)][t & 3u];
                square += x * x;
            }
            square = workgroup_sum(square, lane);

            var least = F32_HIGHEST;
            for (var b = 0u; b < 64u; b++) { least = min(least, column(t, lane, b, gram_at)); }
            least = max(0.0, square + (alpha(t, lane) + least));
            sh_row[lane] = least;
            least = -workgroup_max(-least, lane);
            let reach = sqrt(least) + REACH / params.inverse;
            let cut = max(least, reach * reach);

            var of_row = 0.0;
            var of_column = 0.0;
            for (var a = 0u; a < 64u; a++) {
                if sh_row[a] <= cut {
                    let distance = sqrt(max(0.0, square + (alpha(t, a) + column(t, a, lane, gram_at))));
                    let weight = exp((sqrt(least) - distance) * params.inverse);
                    of_column += weight;
                    let sum = workgroup_sum(weight, lane);
                    if lane == a { of_row = sum; }
                }
            }
            let inverse = 1.0 / workgroup_sum(of_column, lane);
            let at = ((head * params.blocks + block) * 32u + t) * 128u + lane;
            weights[at] = of_row * inverse;
            weights[at + 64u] = of_column * inverse;
            for (var a = 0u; a < 64u; a++) {
                if sh_row[a] <= cut {
                    let distance = sqrt(max(0.0, square + (alpha(t, a) + column(t, a, lane, gram_at))));
                    counts[own + a * 64u] += exp((sqrt(least) - distance) * params.inverse) * inverse;
                }
            }
            workgroupBarrier(); // sh_row is written next
        }
    }
}
