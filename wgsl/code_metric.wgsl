// code_metric: takes residuals to the space that they are coded in, in place.
//
//   residual[h][..][i][t] <- sum_j metric[h][i][j] residual[h][..][j][t]
//
//   residual  f32  [H][blocks][HEAD_DIM][32]
//   metric    u32  [H][HEAD_DIM][HEAD_DIM / 2]    two halves each
//
// One workgroup per block of 32 tokens (x) and head (y): lane 8 i + q has rows i, i + 32, .. of tokens 4q to 4q + 3, and
// writes them when all have read.
const WG: u32 = 256u;
const HEAD_DIM: u32 = 128u; // @param channels per head, a multiple of 4
const ROWS: u32 = (HEAD_DIM + 31u) / 32u;
const QUADS: u32 = HEAD_DIM / 4u;

struct Params {
    blocks: u32, // that residual has room for
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> residual: array<vec4f>;
@group(0) @binding(2) var<storage, read> metric: array<vec2u>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let tile = (wg.y * params.blocks + wg.x) * HEAD_DIM * 8u + (lane & 7u);
    var sums: array<vec4f, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        let i = min(HEAD_DIM - 1u, r * 32u + (lane >> 3u));
        let row = (wg.y * HEAD_DIM + i) * QUADS;
        var sum = vec4f(0.0);
        for (var j = 0u; j < QUADS; j++) {
            let halves = metric[row + j];
            let m = vec4f(unpack2x16float(halves.x), unpack2x16float(halves.y));
            let at = tile + j * 32u;
            sum += residual[at] * m.x + residual[at + 8u] * m.y + residual[at + 16u] * m.z + residual[at + 24u] * m.w;
        }
        sums[r] = sum;
    }
    storageBarrier();
    for (var r = 0u; r < ROWS; r++) {
        let i = r * 32u + (lane >> 3u);
        if i < HEAD_DIM { residual[tile + i * 8u] = sums[r]; }
    }
}
