// kl_rows: how far each row's distribution q is from p.
//
//   out = sum_i p_i log(p_i / q_i) = sum_i p_i f(d_i),  d_i = log p_i - log q_i,  f(d) = exp(-d) - 1 + d
//
//   p, q  f32  [T][V]   logits; p and q are their softmax
//   out   f32  [T]
//
// One workgroup per row, which is read twice. The second form adds sum_i (q_i - p_i) = 0: its terms are all >= 0, so
// nothing cancels, and an error of the row's normalizers drops out to first order; a KL of 1e-6 keeps its digits.
// -inf logits are tokens that cannot be: where only q's is, out is infinite.
#import reduce

const WG: u32 = 256u; // @param lanes per workgroup

struct Params {
    vocab: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> p: array<f32>;
@group(0) @binding(2) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

/// A lane's largest logit so far, and its sum of exp(logit - largest), after one more.
fn absorb(ms: vec2f, x: f32) -> vec2f {
    if x > ms.x { return vec2f(x, ms.y * exp(ms.x - x) + 1.0); }
    return vec2f(ms.x, ms.y + exp(x - ms.x));
}

/// f(d), by its series where it would cancel.
fn excess(d: f32) -> f32 {
    let series = d * d * (0.5 - d * (0.16666667 - d * (0.041666667 - d * (0.0083333333 - d * 0.0013888889))));
    return select(exp(-d) - 1.0 + d, series, abs(d) < 0.125);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first = wg.x * params.vocab;
    var p_lane = vec2f(F32_LOWEST, 0.0);
    var q_lane = vec2f(F32_LOWEST, 0.0);
    for (var i = lane; i < params.vocab; i += WG) {
        p_lane = absorb(p_lane, p[first + i]);
        q_lane = absorb(q_lane, q[first + i]);
    }
    let p_most = workgroup_max(p_lane.x, lane);
    let q_most = workgroup_max(q_lane.x, lane);
    let scaled = vec2f(p_lane.y * exp(p_lane.x - p_most), q_lane.y * exp(q_lane.x - q_most));
    let s = workgroup_sum4(vec4f(scaled, 0.0, 0.0), lane).xy;
    let log_s = log(s);

    let apart = (p_most - q_most) + (log_s.x - log_s.y);

    var sum = 0.0;
    for (var i = lane; i < params.vocab; i += WG) {
        let mass = exp(p[first + i] - p_most - log_s.x);
        let d = p[first + i] - q[first + i] - apart;
        if mass > 0.0 && d > -16.0 {
            sum += mass * excess(d);
        } else {
            sum += exp(q[first + i] - q_most - log_s.y) - select(0.0, mass - mass * d, mass > 0.0);
        }
    }
    let kl = workgroup_sum(sum, lane);
    if lane == 0u { out[wg.x] = kl; }
}
