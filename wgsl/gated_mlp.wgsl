// gated_mlp: the activation between a LLaMA layer's two feed-forward products.
//
//   out[t][f] = silu(gate_up[t][f]) * gate_up[t][F + f],  silu(g) = g / (1 + exp(-g))
//
//   gate_up  f32  [T][2F]   F a multiple of 4
//   out      f32  [T][F]
//
// A lane does a quad of channels, of every 65535th token. A gate far below 0 gives 0.

const WG: u32 = 256u; // @param lanes per workgroup

struct Params {
    tokens: u32,
    quads: u32, // F / 4
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gate_up: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
    if id.x >= params.quads { return; }
    for (var t = id.y; t < params.tokens; t += groups.y) {
        let gate = gate_up[2u * t * params.quads + id.x];
        let up = gate_up[(2u * t + 1u) * params.quads + id.x];
        out[t * params.quads + id.x] = gate / (1.0 + exp(-gate)) * up;
    }
}
