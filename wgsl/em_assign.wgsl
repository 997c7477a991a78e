// em_assign: the E step. Each residual gets its stage's nearest words, and its distance to them.
//
//   codes[h][g][t]  = argmin over words of |x - w|^2   (a pair stage: 64 a + b, w = u_a + v_b)
//   distances[h][t] = |x - w|^2, summed over groups;   with params.keep, x = x - w afterwards
//
//   residual   f32  [H][blocks][HEAD_DIM][32]   read; written where `keep`
//   table      u32  [H][rows][PAIRS]            two halves each: 128 rows u, v of a pair stage, or 256
//   gram       f32  [H][..]                     as code_gram writes one stage
//   codes      u32  [H][groups][blocks][32]     NONE past the last token
//   distances  f32  [H][blocks][32]             0 past the last token
//
// One workgroup per block of 32 tokens (x) and head (y). GROUP = 0 is a pair stage; else each GROUP pairs have a code.
#import stage_search

const HEAD_DIM: u32 = 128u; // @param channels per head, a multiple of 8
const GROUP: u32 = 0u;      // @param pairs of a sub stage's group, a multiple of 4; 0 for a pair stage
const SUB: bool = GROUP > 0u;
const SPAN: u32 = select(PAIRS, GROUP, SUB);
const GROUPS: u32 = PAIRS / SPAN;
const ROWS: u32 = select(128u, 256u, SUB);
const GRAM: u32 = select(1056u, 64u * GROUPS, SUB); // vec4f a head
const NONE: u32 = 0xffffffffu;

struct Params {
    tokens: u32,
    blocks: u32,
    keep: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> residual: array<vec4f>;
@group(0) @binding(2) var<storage, read> table: array<vec4u>;
@group(0) @binding(3) var<storage, read> gram: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> codes: array<u32>;
@group(0) @binding(5) var<storage, read_write> distances: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let block = wg.x;
    let head = wg.y;
    let tile_at = (head * params.blocks + block) * HEAD_DIM * 8u;
    let row = head * ROWS;
    var sum = vec4f(0.0);
    for (var group = 0u; group < GROUPS; group++) {
        if SUB {
            nearest_word(tile_at, row, head * GRAM + group * 64u, group * SPAN, SPAN, lane);
        } else {
            nearest_pair(tile_at, row, head * GRAM, lane);
        }
        if lane < 32u {
            let code = select(NONE, sh_code[lane], block * 32u + lane < params.tokens);
            codes[((head * GROUPS + group) * params.blocks + block) * 32u + lane] = code;
        }
        sum += subtract(tile_at, row, !SUB, group * SPAN, SPAN, params.keep != 0u, lane);
    }
    workgroupBarrier();
    sh_tile[lane] = sum;
    workgroupBarrier();
    if lane < 32u {
        var distance = 0.0;
        for (var part = 0u; part < 8u; part++) { distance += sh_tile[part * 8u + (lane >> 2u)][lane & 3u]; }
        let at = (head * params.blocks + block) * 32u + lane;
        distances[at] = select(0.0, distance, block * 32u + lane < params.tokens);
    }
}
