// rms_norm: scale each token to a root mean square of 1, then each channel by its gain.
//
//   out[t][h] = x[t][h] / sqrt(mean_h x[t][h]^2 + eps) * gain[h]
//
//   x, out  f32  [T][H]   H a multiple of 4
//   gain    f32  [H]
//
// One workgroup per token, a lane per quads of channels. A token of zeros stays zeros.
#import reduce

const WG: u32 = 256u; // @param lanes per workgroup

struct Params {
    quads: u32, // H / 4
    eps: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> gain: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first = wg.x * params.quads;
    var square = 0.0;
    for (var i = lane; i < params.quads; i += WG) {
        let quad = x[first + i];
        square += dot(quad, quad);
    }
    let mean = workgroup_sum(square, lane) / f32(4u * params.quads);
    let scale = 1.0 / sqrt(mean + params.eps);
    for (var i = lane; i < params.quads; i += WG) { out[first + i] = x[first + i] * scale * gain[i]; }
}
