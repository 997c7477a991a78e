// code_missed: which tokens a codec's first stages miss by too much.
//
//   missed[k][block], bit t = scales[t]^2 * sum_c residual[k][block][c][t]^2 > thresholds[k]
//
//   residual    f32  [K][capacity][HEAD_DIM][32]   what the first stages left (code_beam)
//   scales      f16  [T]                           packed in pairs; of the first token from `scale` on
//   thresholds  f32  [K]
//   missed      u32  [K][capacity]                 a block's tokens, the first lowest
//
// One workgroup per block of 32 tokens (x) and head (y); four lanes share a token's channels.
const WG: u32 = 128u;
const HEAD_DIM: u32 = 128u; // @param channels per head
const PARTS: u32 = WG / 32u;

struct Params {
    tokens: u32,
    capacity: u32, // blocks of residuals
    scale: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> residual: array<f32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> thresholds: array<f32>;
@group(0) @binding(4) var<storage, read_write> missed: array<u32>;

var<workgroup> sh_sums: array<f32, WG>;
var<workgroup> sh_mask: atomic<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let own = lane & 31u;
    let block = wg.y * params.capacity + wg.x;
    var sum = 0.0;
    for (var c = lane >> 5u; c < HEAD_DIM; c += PARTS) {
        let x = residual[(block * HEAD_DIM + c) * 32u + own];
        sum += x * x;
    }
    sh_sums[lane] = sum;
    workgroupBarrier();
    let t = wg.x * 32u + own;
    if lane < 32u && t < params.tokens {
        var error = 0.0;
        for (var i = own; i < WG; i += 32u) { error += sh_sums[i]; }
        let scale = unpack2x16float(scales[(params.scale + t) >> 1u])[t & 1u];
        if error * scale * scale > thresholds[wg.y] { atomicOr(&sh_mask, 1u << own); }
    }
    workgroupBarrier();
    if lane == 0u { missed[block] = atomicLoad(&sh_mask); }
}
