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

fn p_at(row: u32, i: u32) -> f32 {
    return select(F32_LOWEST, p[row * params.vocab + i], i < params.vocab);
}

fn q_at(row: u32, i: u32) -> f32 {
    return select(F32_LOWEST, q[row * params.vocab + i], i < params.vocab);
}

/// Four of a lane's logits, loaded at once.
fn p_quad(row: u32, i: u32) -> vec4f {
    return vec4f(p_at(row, i), p_at(row, i + WG), p_at(row, i + 2u * WG), p_at(row, i + 3u * WG));
}

fn q_quad(row: u32, i: u32) -> vec4f {
    return vec4f(q_at(row, i), q_at(row, i + WG), q_at(row, i + 2u * WG), q_at(row, i + 3u * WG));
}

/// A lane's largest logit so far, and its sum of exp(logit - largest), after four more.
fn absorb(ms: vec2f, x: vec4f) -> vec2f {
    let most = max(max(max(x.x, x.y), max(x.z, x.w)), ms.x);
    return vec2f(most, ms.y * exp(ms.x - most) + dot(exp(x - most), vec4f(1.0)));
}

/// f(d), by its series where it would cancel.
fn excess(d: vec4f) -> vec4f {
    let series = d * d * (0.5 - d * (0.16666667 - d * (0.041666667 - d * (0.0083333333 - d * 0.0013888889))));
    return select(exp(-d) - 1.0 + d, series, abs(d) < vec4f(0.125));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = wg.x;
    var p_lane = vec2f(F32_LOWEST, 0.0);
    var q_lane = vec2f(F32_LOWEST, 0.0);
    for (var i = lane; i < params.vocab; i += 4u * WG) {
        p_lane = absorb(p_lane, p_quad(row, i));
        q_lane = absorb(q_lane, q_quad(row, i));
    }
    let p_most = workgroup_max(p_lane.x, lane);
    let q_most = workgroup_max(q_lane.x, lane);
    let scaled = vec2f(p_lane.y * exp(p_lane.x - p_most), q_lane.y * exp(q_lane.x - q_most));
    let log_s = log(workgroup_sum4(vec4f(scaled, 0.0, 0.0), lane).xy);
    let apart = (p_most - q_most) + (log_s.x - log_s.y);

    var sum = vec4f();
    for (var i = lane; i < params.vocab; i += 4u * WG) {
        let a = p_quad(row, i);
        let b = q_quad(row, i);
        let mass = exp(a - p_most - log_s.x);
        let other = exp(b - q_most - log_s.y);
        sum += select(other, mass * excess(a - b - apart), mass >= vec4f(1.17549435e-38)); // p f(d) tends to q
    }
    let kl = workgroup_sum(dot(sum, vec4f(1.0)), lane);
    if lane == 0u { out[wg.x] = kl; }
}
