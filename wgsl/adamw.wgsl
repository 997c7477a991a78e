// adamw: one step of AdamW over a flat vector of parameters.
//
//   g = sum_i gradients[i],  mean = b1 mean + (1 - b1) g,  square = b2 square + (1 - b2) g g
//   p = p (1 - rate decay) - rate (mean / c1) / (sqrt(square / c2) + EPS),   c = 1 - b^step
//
//   parameters, mean, square  f32  [P]      P a multiple of 4
//   gradients                 f32  [I][P]   slabs, each the gradient of a part of the batch
//
// A lane does a quad at a time.

const WG: u32 = 256u; // @param lanes per workgroup
const EPS: f32 = 1e-8;

struct Params {
    quads: u32,
    slabs: u32,
    rate: f32,
    decay: f32,
    beta1: f32,
    beta2: f32,
    correction1: f32,
    correction2: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> parameters: array<vec4f>;
@group(0) @binding(2) var<storage, read> gradients: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> mean: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> square: array<vec4f>;

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
    for (var i = id.x; i < params.quads; i += groups.x * WG) {
        var g = vec4f();
        for (var slab = 0u; slab < params.slabs; slab++) { g += gradients[slab * params.quads + i]; }
        let m = params.beta1 * mean[i] + (1.0 - params.beta1) * g;
        let s = params.beta2 * square[i] + (1.0 - params.beta2) * g * g;
        mean[i] = m;
        square[i] = s;
        let step = m / params.correction1 / (sqrt(s / params.correction2) + EPS);
        parameters[i] = parameters[i] * (1.0 - params.rate * params.decay) - params.rate * step;
    }
}
