// em_reduce: add up the parts that a head's sums were made in.
//
//   out[h][i] = sum_p parts[h][p][i]
//
//   parts  f32  [H][count][width]
//   out    f32  [H][width]
//
// One lane per four numbers (x), one row of workgroups per head (y). Sums of at most 32 parts are added to the whole, so
// that rounding grows with the root of the tokens, not with them.
const WG: u32 = 64u;

struct Params {
    count: u32,
    quads: u32, // width / 4
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> parts: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i = wg.x * WG + lane;
    if i >= params.quads { return; }
    var whole = vec4f(0.0);
    for (var first = 0u; first < params.count; first += 32u) {
        var some = vec4f(0.0);
        for (var part = first; part < min(params.count, first + 32u); part++) {
            some += parts[(wg.y * params.count + part) * params.quads + i];
        }
        whole += some;
    }
    out[wg.y * params.quads + i] = whole;
}
