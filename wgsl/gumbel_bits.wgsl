// gumbel_bits: choose one of four states for every symbol, and write each as two bits; or the gradient of that.
//
//   state = argmax_s y_s,   y_s = logits[s] + noise_s,   noise_s = -log(-log u_s), or 0 where it is off
//   states 0, 1, 2, 3 are bits 10, 01, 11, 00: the first bit is set in 0 and 2, the second in 1 and 2
//
// BACKWARD, straight through to softmax(y) (hard Gumbel-softmax, temperature 1), in place:
//
//   d_s = (g0, g1, g0 + g1, 0)[s] for the gradient g of the two bits,   logits[s] = p_s (d_s - sum_r p_r d_r)
//
//   logits  vec4f  [L][N]             N symbols, a multiple of 16
//   bits    vec2f  [L][N]             0 or 1; BACKWARD: the gradient of the bits
//   words   u32    [L][N / 16]        the same bits packed, first bit lowest; BACKWARD: untouched
//
// A lane does a symbol. The noise depends on the symbol, the step and the seed, not on the layer. The first of equal
// states wins.
#import random

const WG: u32 = 256u;         // @param lanes per workgroup, a multiple of 16
const BACKWARD: bool = false; // @param

struct Params {
    symbols: u32, // N
    count: u32,   // L N
    noise: u32,   // 1: on
    seed: u32,
    step: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> logits: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> bits: array<vec2f>;
@group(0) @binding(3) var<storage, read_write> words: array<u32>;

var<workgroup> sh_pair: array<u32, WG>;

/// Gumbel noise of a symbol's four states.
fn gumbel(symbol: u32) -> vec4f {
    let u = (vec4f(random4(vec4u(symbol, params.step, params.seed, 1u)) >> vec4u(9u)) + 0.5) * 1.1920928955078125e-7;
    // A GPU's log is only absolutely accurate near 1, where its result matters: a series there.
    let w = 1.0 - u;
    let series = w + w * w * (0.5 + w * (0.33333333 + 0.25 * w));
    return -log(select(-log(u), series, w < vec4f(0.015625)));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let i = wg.x * WG + lane;
    let inside = i < params.count;
    var y = vec4f();
    if inside { y = logits[i]; }
    if params.noise != 0u { y += gumbel(i % params.symbols); }
    let most = max(max(y.x, y.y), max(y.z, y.w));

    if BACKWARD {
        let e = exp(y - most);
        let p = e / dot(e, vec4f(1.0));
        if inside {
            let d = vec4f(bits[i], bits[i].x + bits[i].y, 0.0);
            logits[i] = p * (d - dot(p, d));
        }
    } else {
        var pair = select(select(select(0u, 3u, y.z == most), 2u, y.y == most), 1u, y.x == most);
        if inside { bits[i] = vec2f(vec2u(pair & 1u, pair >> 1u)); } else { pair = 0u; }
        sh_pair[lane] = pair;
        workgroupBarrier();
        if lane % 16u == 0u && inside {
            var word = 0u;
            for (var s = 0u; s < 16u; s++) { word |= sh_pair[lane + s] << (2u * s); }
            words[i / 16u] = word;
        }
    }
}
