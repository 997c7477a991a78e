// code_select: takes the tokens whose error passes their head's threshold from another cache.
//
//   error[k][t] = scales[t]^2 * sum_c residual[k][..][c][t]^2
//   to[k][t] <- from[k][t] and picked[k][t] = 1 where error > thresholds[k]; picked[k][t] = 0 elsewhere
//
//   residual    f32  [K][capacity][HEAD_DIM][32]   as an encoder leaves it
//   scales      f16  [T], packed in pairs
//   thresholds  f32  [K]
//   from, to    u32  [K][tokens][PAIRS]
//   picked      u32  [K][tokens]
//
// One workgroup of 32 lanes per block (x) and head (y), a lane a token.
const HEAD_DIM: u32 = 128u; // @param channels per head
const PAIRS: u32 = HEAD_DIM / 2u;

struct Params {
    tokens: u32,
    capacity: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> residual: array<f32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> thresholds: array<f32>;
@group(0) @binding(4) var<storage, read> from_cache: array<u32>;
@group(0) @binding(5) var<storage, read_write> to_cache: array<u32>;
@group(0) @binding(6) var<storage, read_write> picked: array<u32>;

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let t = wg.x * 32u + lane;
    if t >= params.tokens { return; }
    let tile = (wg.y * params.capacity + wg.x) * HEAD_DIM * 32u + lane;
    var error = 0.0;
    for (var c = 0u; c < HEAD_DIM; c++) { error += residual[tile + c * 32u] * residual[tile + c * 32u]; }
    let scale = unpack2x16float(scales[t >> 1u])[t & 1u];
    let passes = error * scale * scale > thresholds[wg.y];
    let row = wg.y * params.tokens + t;
    picked[row] = u32(passes);
    if passes {
        for (var d = 0u; d < PAIRS; d++) { to_cache[row * PAIRS + d] = from_cache[row * PAIRS + d]; }
    }
}
