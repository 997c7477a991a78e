// layer_norm: pick tokens, take out their scale, and standardize: what the value encoder's network sees.
//
//   y = x / scale,  p = |y| + EPS,  normed = (y / p - mean) / deviation     (gain and offset: layer_norm_fold)
//
//   values  f32    [V][F]      one layer's values
//   scale   f32    [L][F]      mean absolute value of each channel, plus EPS
//   normed  f32    [L][T][F]
//   stats   vec4f  [L][T]      p, mean, deviation, weight: what it takes to undo it, and the token's weight in a loss
//
// One workgroup per token; a dispatch does one layer. DRAW: token t is a random row of `values`, the same for every
// layer; else it is row first + t. A token of zeros gives zeros.
#import reduce
#import random

const WG: u32 = 32u;        // @param lanes per workgroup
const FEATURES: u32 = 256u; // @param numbers per token, a multiple of 4
const DRAW: bool = false;   // @param
const QUADS: u32 = FEATURES / 4u;
const EPS: f32 = 1e-6;
const NORM_EPS: f32 = 1e-5; // PyTorch's LayerNorm

struct Params {
    rows: u32,   // V
    tokens: u32, // T
    layer: u32,
    first: u32,
    seed: u32,
    step: u32,
    weight: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> values: array<vec4f>;
@group(0) @binding(2) var<storage, read> scale: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> normed: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> stats: array<vec4f>;

fn scaled(row: u32, i: u32) -> vec4f {
    return values[row * QUADS + i] / scale[params.layer * QUADS + i];
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let token = params.layer * params.tokens + wg.x;
    var row = params.first + wg.x;
    if DRAW { row = random4(vec4u(wg.x, params.step, params.seed, 0u)).x % params.rows; }

    var sums = vec4f();
    for (var i = lane; i < QUADS; i += WG) {
        let y = scaled(row, i);
        sums += vec4f(dot(y, y), dot(y, vec4f(1.0)), 0.0, 0.0);
    }
    let total = workgroup_sum4(sums, lane);
    let p = sqrt(total.x) + EPS;
    let mean = total.y / (p * f32(FEATURES));

    var square = 0.0;
    for (var i = lane; i < QUADS; i += WG) {
        let centred = scaled(row, i) / p - mean;
        square += dot(centred, centred);
    }
    let deviation = sqrt(workgroup_sum(square, lane) / f32(FEATURES) + NORM_EPS);

    for (var i = lane; i < QUADS; i += WG) {
        normed[token * QUADS + i] = (scaled(row, i) / p - mean) / deviation;
    }
    if lane == 0u { stats[token] = vec4f(p, mean, deviation, params.weight); }
}
