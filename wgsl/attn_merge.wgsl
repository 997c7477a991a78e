// attn_merge: fold the partial attention states of each query row into its output.
//
//   out[r][c] = sum_i partial_o[i][r][c] * w_i / sum_i d_i * w_i,   w_i = exp(m_i - max_i m_i)
//
//   partial_o   f32    [I][R][HEAD_DIM]   not normalised
//   partial_md  vec2f  [I][R]             m: largest score, d: sum of exp(score - m)
//   out         f32    [R][HEAD_DIM]
//
// One workgroup per row (a query head of a token). A split that saw no token has m = F32_LOWEST, d = 0;
// if every split is empty the row is 0, never NaN.
#import reduce

const WG: u32 = 64u;        // @param lanes per workgroup
const HEAD_DIM: u32 = 128u; // @param channels per head

struct Params {
    rows: u32,
    splits: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partial_o: array<f32>;
@group(0) @binding(2) var<storage, read> partial_md: array<vec2f>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = wg.x;

    var m_lane = F32_LOWEST;
    for (var i = lane; i < params.splits; i += WG) { m_lane = max(m_lane, partial_md[i * params.rows + row].x); }
    let m = workgroup_max(m_lane, lane);

    var d_lane = 0.0;
    for (var i = lane; i < params.splits; i += WG) {
        let md = partial_md[i * params.rows + row];
        d_lane += md.y * exp(md.x - m);
    }
    let d = workgroup_sum(d_lane, lane);
    let norm = select(0.0, 1.0 / d, d > 0.0);

    for (var c = lane; c < HEAD_DIM; c += WG) {
        var o = 0.0;
        for (var i = 0u; i < params.splits; i++) {
            let at = i * params.rows + row;
            o += partial_o[at * HEAD_DIM + c] * exp(partial_md[at].x - m);
        }
        out[row * HEAD_DIM + c] = o * norm;
    }
}
