// attn_merge: fold the partial attention states of each query row into its output.
//
//   out[r][c] = sum_i partial_o[i][r][c] * w_i / sum_i d_i * w_i,   w_i = exp(m_i - max_i m_i)
//
//   partial_o   f32    [I][R][HEAD_DIM]   not normalised
//   partial_md  vec2f  [I][R]             m: largest score, d: sum of exp(score - m)
//   out         f32    [R][HEAD_DIM]
//
// A workgroup per row, a query head of a token (x, and z where x is full), and 4 QUADS channels of it (y). WG / QUADS
// lanes share the splits of each four channels, four at a time so that four loads are under way. A split that saw no
// token has m = F32_LOWEST, d = 0; if every split is empty the row is 0, never NaN.
#import reduce

const WG: u32 = 128u;       // @param lanes per workgroup, a power of two
const QUADS: u32 = 32u;     // @param lanes side by side, four channels each: a power of two
const HEAD_DIM: u32 = 128u; // @param channels per head, a multiple of 4
const SHARES: u32 = WG / QUADS;
const STRIDE: u32 = HEAD_DIM / 4u;

struct Params {
    rows: u32,
    splits: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partial_o: array<vec4f>;
@group(0) @binding(2) var<storage, read> partial_md: array<vec2f>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>;

var<workgroup> sh_o: array<vec4f, WG>;

/// A split's share of the output; nothing past the last split.
fn share(split: u32, row: u32, quad: u32, m: f32) -> vec4f {
    let at = min(split, params.splits - 1u) * params.rows + row;
    return partial_o[at * STRIDE + quad] * select(0.0, exp(partial_md[at].x - m), split < params.splits);
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) wg: vec3u,
    @builtin(num_workgroups) grid: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = wg.z * grid.x + wg.x;
    if row >= params.rows { return; } // a whole workgroup

    var m_lane = F32_LOWEST;
    for (var i = lane; i < params.splits; i += WG) { m_lane = max(m_lane, partial_md[i * params.rows + row].x); }
    let m = workgroup_max(m_lane, lane);

    var d_lane = 0.0;
    for (var i = lane; i < params.splits; i += WG) {
        let md = partial_md[i * params.rows + row];
        d_lane += md.y * exp(md.x - m);
    }
    let d = workgroup_sum(d_lane, lane);

    let quad = wg.y * QUADS + lane % QUADS;
    let held = min(quad, STRIDE - 1u);
    var o = vec4f(0.0);
    for (var i = lane / QUADS; i < params.splits; i += 4u * SHARES) {
        let early = share(i, row, held, m) + share(i + SHARES, row, held, m);
        o += early + share(i + 2u * SHARES, row, held, m) + share(i + 3u * SHARES, row, held, m);
    }
    sh_o[lane] = o;
    for (var stride = WG / 2u; stride >= QUADS; stride >>= 1u) {
        workgroupBarrier();
        if lane < stride { sh_o[lane] += sh_o[lane + stride]; }
    }
    if lane < QUADS && quad < STRIDE { out[row * STRIDE + quad] = sh_o[lane] * select(0.0, 1.0 / d, d > 0.0); }
}
