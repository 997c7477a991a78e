// gelu: x/2 (1 + erf(x / sqrt 2)), and its gradient.
//
//   y = gelu(x);  BACKWARD, in place:  y = y * gelu'(x)
//   gelu'(x) = (1 + erf(x / sqrt 2)) / 2 + x exp(-x x / 2) / sqrt(2 pi)
//
//   x, y  f32  [N]   N a multiple of 4
//
// A lane does a quad at a time.

const WG: u32 = 256u;         // @param lanes per workgroup
const BACKWARD: bool = false; // @param

struct Params {
    quads: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

/// The error function, to an ulp or two: minimax polynomials of erf near 0 and of log(1 - erf) elsewhere (N. Juffa).
fn erf(v: vec4f) -> vec4f {
    let t = abs(v);
    let s = v * v;
    var far = vec4f(3.83197126e-4) - 1.72853470e-5 * t;
    far = far * s + (2.42546219e-2 - 3.88396438e-3 * t);
    far = far * t - 1.06777877e-1;
    far = far * t - 6.34846687e-1;
    far = far * t - 1.28717512e-1;
    far = sign(v) * (1.0 - exp(far * t - t));
    var near = vec4f(4.99119423e-3) - 5.96761703e-4 * s;
    near = near * s - 2.67681349e-2;
    near = near * s + 1.12819925e-1;
    near = near * s - 3.76125336e-1;
    near = near * s + 1.28379166e-1;
    return select(near * v + v, far, t > vec4f(0.927734375));
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
    for (var i = id.x; i < params.quads; i += groups.x * WG) {
        let v = x[i];
        let cdf = 0.5 + 0.5 * erf(v * 0.70710678118654752);
        if BACKWARD { y[i] *= cdf + v * exp(-0.5 * v * v) * 0.39894228040143268; } else { y[i] = v * cdf; }
    }
}
