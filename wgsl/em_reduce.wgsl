// em_reduce: adds up the chunks of em_accumulate.
//
//   out[h][i] = sum_chunk sums[h][chunk][i]
//
//   sums  f32  [H][chunks][width]
//   out   f32  [H][width]
//
// One lane per four numbers (x), one row of workgroups per head (y). Sums of at most 32 chunks are added to the whole,
// so that rounding grows with the root of the tokens, not with them.
const WG: u32 = 64u;

struct Params {
    chunks: u32,
    quads: u32, // width / 4
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> sums: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i = wg.x * WG + lane;
    if i >= params.quads { return; }
    var whole = vec4f(0.0);
    for (var first = 0u; first < params.chunks; first += 32u) {
        var part = vec4f(0.0);
        for (var chunk = first; chunk < min(params.chunks, first + 32u); chunk++) {
            part += sums[(wg.y * params.chunks + chunk) * params.quads + i];
        }
        whole += part;
    }
    out[wg.y * params.quads + i] = whole;
}
