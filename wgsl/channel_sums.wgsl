// channel_sums: what a codec must know of its channels: sums of magnitudes, of values and of squares.
//
//   out[i][f] = sum of (|x|, x, x x, 0) over the rows of chunk i
//
//   values  f32    [V][F]
//   out     vec4f  [I][F]    chunks of `chunk` rows: few, so that f32 sums stay accurate; the host adds the chunks
//
// One workgroup per WG channels and chunk, a lane per channel.

const WG: u32 = 64u; // @param lanes per workgroup

struct Params {
    rows: u32,
    features: u32,
    chunk: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> values: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let f = wg.x * WG + lane;
    if f < params.features {
        let end = min(params.rows, (wg.y + 1u) * params.chunk);
        var sums = vec4f();
        for (var row = wg.y * params.chunk; row < end; row++) {
            let x = values[row * params.features + f];
            sums += vec4f(abs(x), x, x * x, 0.0);
        }
        out[wg.y * params.features + f] = sums;
    }
}
