// code_encode: greedy additive coding. Stage after stage, the residual's nearest words are taken off it, and their
// codes are packed (src/core/pack.ts).
//
//   residual  f32    [K][capacity][HEAD_DIM][32]   as code_residual leaves it; what the codes miss is left in it
//   table     u32    [K][rows][PAIRS]              two halves each
//   gram      f32    [K][gram]                     code_gram's of every stage
//   fields    vec4u  [fields]                      row, number of its gram, pair, pairs (0: a pair stage)
//   codes     u32    [blocks][K][bits]             blocks from `block` on; tokens past the last have code 0
//
// One workgroup of 64 lanes per block of 32 tokens (x) and head (y). The words are those that the decoder reads, in half
// precision, so both agree; sums are f32 and the argmin is that of a search over all words.
#import stage_search

const HEAD_DIM: u32 = 128u; // @param channels per head, a multiple of 8

struct Params {
    tokens: u32,
    capacity: u32,
    rows: u32,
    gram: u32,   // vec4f a head
    fields: u32,
    bits: u32,
    block: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> residual: array<vec4f>;
@group(0) @binding(2) var<storage, read> table: array<vec4u>;
@group(0) @binding(3) var<storage, read> gram: array<vec4f>;
@group(0) @binding(4) var<storage, read> fields: array<vec4u>;
@group(0) @binding(5) var<storage, read_write> codes: array<u32>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wg: vec3u,
    @builtin(num_workgroups) grid: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = wg.y;
    let tile_at = (head * params.capacity + wg.x) * HEAD_DIM * 8u;
    var to = ((params.block + wg.x) * grid.y + head) * params.bits;
    for (var i = 0u; i < params.fields; i++) {
        let field = fields[i];
        let row = head * params.rows + field.x;
        let gram_at = head * params.gram + field.y;
        let is_pair = field.w == 0u;
        if is_pair {
            nearest_pair(tile_at, row, gram_at, lane);
        } else {
            nearest_word(tile_at, row, gram_at, field.z, field.w, lane);
        }
        let bits = select(8u, 12u, is_pair);
        if lane < bits { codes[to + lane] = packed(lane, bits, params.tokens - min(params.tokens, wg.x * 32u)); }
        to += bits;
        subtract(tile_at, row, is_pair, field.z, select(field.w, PAIRS, is_pair), true, lane);
        storageBarrier();
    }
}
