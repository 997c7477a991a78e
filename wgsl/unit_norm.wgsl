// unit_norm: read a direction off the sum of codewords, give it the token's scale, and judge it.
//
//   n = |v|,  u = v / (n + EPS),  error_f = p scale_f (u_f - y_f),  s = p / (n + EPS)
//   y = normed * deviation + mean: the token's own direction (layer_norm)
//
//   normed  f32    [L][T][F]
//   stats   vec4f  [L][T]         p, mean, deviation, weight
//   scale   f32    [L][F]
//   v       f32    [L][T][F]      BACKWARD: becomes the gradient of weight/2 * |error|^2
//   scales  f16    [L][T]         s, which decoding multiplies v and scale_f by; in pairs, the even token low
//   errors  vec2f  [L][T]         |error|^2 and |p scale y|^2. Without BACKWARD of s as it is stored, in f16
//
// One workgroup per two tokens, so that it writes a whole word of scales. Where v is 0, so are its gradient and the
// answer.
#import reduce

const WG: u32 = 32u;        // @param lanes per workgroup
const FEATURES: u32 = 256u;   // @param F, a multiple of 4
const BACKWARD: bool = false; // @param
const QUADS: u32 = FEATURES / 4u;
const EPS: f32 = 1e-6;

struct Params {
    tokens: u32, // T
    count: u32,  // L T
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> normed: array<vec4f>;
@group(0) @binding(2) var<storage, read> stats: array<vec4f>;
@group(0) @binding(3) var<storage, read> scale: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> v: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> scales: array<u32>;
@group(0) @binding(6) var<storage, read_write> errors: array<vec2f>;

/// The nearest number that f16 has, ties to even. By its bits, since a compiler cancels unpacking against packing (one
/// did, on an H200). Below the least normal f16, 6e-5, it is packing that rounds.
fn to_f16(s: f32) -> f32 {
    let bits = bitcast<u32>(s);
    return bitcast<f32>((bits + 0xfffu + ((bits >> 13u) & 1u)) & 0xffffe000u);
}

/// Does one token, in uniform flow, and returns its s, rounded.
fn judge(token: u32, lane: u32) -> f32 {
    let stat = stats[token];
    let channels = token / params.tokens * QUADS;
    var square = 0.0;
    for (var i = lane; i < QUADS; i += WG) {
        let row = v[token * QUADS + i];
        square += dot(row, row);
    }
    let n = sqrt(workgroup_sum(square, lane));
    let inverse = 1.0 / (n + EPS);
    let s = stat.x * inverse;
    let stored = select(to_f16(s), s, BACKWARD);

    // With e = error and du = weight p scale e:  dv = (du - (u . du) v / n) / (n + EPS)
    var sums = vec4f();
    for (var i = lane; i < QUADS; i += WG) {
        let at = token * QUADS + i;
        let unit = stat.x * scale[channels + i];
        let exact = unit * (normed[at] * stat.z + stat.y);
        let error = stored * scale[channels + i] * v[at] - exact;
        sums += vec4f(dot(error, error), dot(exact, exact), dot(v[at], unit * error), 0.0);
    }
    let total = workgroup_sum4(sums, lane);
    if BACKWARD {
        let along = select(0.0, total.z * inverse / n, n > 0.0);
        for (var i = lane; i < QUADS; i += WG) {
            let at = token * QUADS + i;
            let unit = stat.x * scale[channels + i];
            let error = s * scale[channels + i] * v[at] - unit * (normed[at] * stat.z + stat.y);
            v[at] = select(0.0, stat.w * inverse, n > 0.0) * (unit * error - along * v[at]);
        }
    }
    if lane == 0u { errors[token] = total.xy; }
    return to_f16(s);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first = judge(2u * wg.x, lane);
    var second = 0.0;
    if 2u * wg.x + 1u < params.count { second = judge(2u * wg.x + 1u, lane); }
    if lane == 0u { scales[wg.x] = pack2x16float(vec2f(first, second)); }
}
