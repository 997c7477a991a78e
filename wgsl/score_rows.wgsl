// score_rows: judge each row of logits against the token that came.
//
//   top = argmax_i x_i (the lowest of equals),  lse = log sum_i exp(x_i),  nll = lse - x_target
//
//   logits   f32    [T][V]
//   targets  u32    [T]      ids below V
//   scores   vec4u  [T]      top; as bits of f32: x_top, lse, nll
//
// One workgroup per row, which is read once: a lane keeps the largest of what it has seen and a sum relative to it.
// nll comes from differences to x_top, so that it is as accurate near 0 as anywhere. Logits are finite or -inf, a token
// that cannot be, whose nll is infinite; a row has a finite one.
#import reduce

const WG: u32 = 256u; // @param lanes per workgroup

struct Params {
    vocab: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> targets: array<u32>;
@group(0) @binding(3) var<storage, read_write> scores: array<vec4u>;

fn logit(row: u32, i: u32) -> f32 {
    return select(F32_LOWEST, logits[row * params.vocab + i], i < params.vocab);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row = wg.x;
    var m_lane = F32_LOWEST;
    var s_lane = 0.0;
    var top_lane = f32(lane); // ids are below 2^24
    for (var i = lane; i < params.vocab; i += 4u * WG) { // four loads under way at once
        let x = vec4f(logit(row, i), logit(row, i + WG), logit(row, i + 2u * WG), logit(row, i + 3u * WG));
        let most = max(max(x.x, x.y), max(x.z, x.w));
        if most > m_lane {
            s_lane *= exp(m_lane - most);
            m_lane = most;
            top_lane = f32(i + WG * select(select(select(3u, 2u, x.z == most), 1u, x.y == most), 0u, x.x == most));
        }
        s_lane += dot(exp(x - m_lane), vec4f(1.0));
    }
    let m = workgroup_max(m_lane, lane);
    let top = -workgroup_max(select(F32_LOWEST, -top_lane, m_lane == m), lane);
    let s = workgroup_sum(s_lane * exp(m_lane - m), lane);
    if lane == 0u {
        let nll = (m - logits[row * params.vocab + targets[row]]) + log(s);
        scores[row] = vec4u(u32(top), bitcast<vec3u>(vec3f(m, m + log(s), nll)));
    }
}
