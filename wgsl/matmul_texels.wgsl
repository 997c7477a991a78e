// matmul_texels: a few tokens' product with a matrix of any weight type in texels, for CPUs.
//
//   out[t][n] = sum_k x[t][k] * weights[n][k];  with RESIDUAL +=
//
//   weights, scales   [N][K], from row `first` on, K a multiple of 64: src/core/weight_layout.ts
//   x      f32  [TOKENS][K], the first `tokens` of which count
//   out    f32  [T][stride], from row `token` and column `column` on
//
// A software driver runs lanes as a vector. Lanes are rows, so that what is read of x is the same for all of them, once
// and not lane by lane, and so that none wait for each other. A lane makes ROWS rows, WG apart, with all tokens.
#import weight_q8_0 // @param WEIGHT

const TOKENS: u32 = 8u;       // @param 1, 2, 4 or 8
const QUADS: u32 = 128u;      // @param K / 4
const RESIDUAL: bool = false; // @param
const WG: u32 = 8u;
const ROWS: u32 = 4u;

struct Params {
    tokens: u32,
    rows: u32,
    first: u32,
    token: u32,
    stride: u32,
    column: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(3) var<uniform> x: array<vec4f, TOKENS * QUADS>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

/// A unit of sixteen columns of the lane's rows.
struct Unit {
    a: mat4x4f,
    b: mat4x4f,
    c: mat4x4f,
    d: mat4x4f,
}

fn quad_dots(a: vec4f, b: vec4f, c: vec4f, d: vec4f, x: vec4f) -> vec4f {
    return vec4f(dot(a, x), dot(b, x), dot(c, x), dot(d, x));
}

/// The rows' products with a token, of the unit whose first quad of x is `quad`.
fn unit_dots(w: Unit, token: u32, quad: u32) -> vec4f {
    let at = token * QUADS + quad;
    let s0 = quad_dots(w.a[0], w.b[0], w.c[0], w.d[0], x[at]);
    let s1 = quad_dots(w.a[1], w.b[1], w.c[1], w.d[1], x[at + 1u]);
    let s2 = quad_dots(w.a[2], w.b[2], w.c[2], w.d[2], x[at + 2u]);
    let s3 = quad_dots(w.a[3], w.b[3], w.c[3], w.d[3], x[at + 3u]);
    return (s0 + s1) + (s2 + s3);
}

fn put(token: u32, row: u32, value: f32) {
    if row >= params.rows { return; }
    let at = (params.token + token) * params.stride + params.column + row;
    if RESIDUAL { out[at] += value; } else { out[at] = value; }
}

fn put4(token: u32, row: u32, values: vec4f) {
    if token >= params.tokens { return; }
    put(token, row, values.x);
    put(token, row + WG, values.y);
    put(token, row + 2u * WG, values.z);
    put(token, row + 3u * WG, values.w);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    const UNITS = QUADS / 4u;
    let row = wg.x * WG * ROWS + lane;
    let starts = (params.first + min(row + vec4u(0u, WG, 2u * WG, 3u * WG), vec4u(params.rows - 1u))) * UNITS;
    var s0 = vec4f();
    var s1 = vec4f();
    var s2 = vec4f();
    var s3 = vec4f();
    var s4 = vec4f();
    var s5 = vec4f();
    var s6 = vec4f();
    var s7 = vec4f();
    for (var i = 0u; i < UNITS; i++) {
        let unit = starts + i;
        let w = Unit(weight16(unit.x), weight16(unit.y), weight16(unit.z), weight16(unit.w));
        let quad = 4u * i;
        s0 += unit_dots(w, 0u, quad);
        if TOKENS > 1u { s1 += unit_dots(w, 1u, quad); }
        if TOKENS > 2u {
            s2 += unit_dots(w, 2u, quad);
            s3 += unit_dots(w, 3u, quad);
        }
        if TOKENS > 4u {
            s4 += unit_dots(w, 4u, quad);
            s5 += unit_dots(w, 5u, quad);
            s6 += unit_dots(w, 6u, quad);
            s7 += unit_dots(w, 7u, quad);
        }
    }
    put4(0u, row, s0);
    if TOKENS > 1u { put4(1u, row, s1); }
    if TOKENS > 2u {
        put4(2u, row, s2);
        put4(3u, row, s3);
    }
    if TOKENS > 4u {
        put4(4u, row, s4);
        put4(5u, row, s5);
        put4(6u, row, s6);
        put4(7u, row, s7);
    }
}
