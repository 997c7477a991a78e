// matvec: one token's product with a matrix of any weight type, RMS normalization and gated activation fused.
//
//   y[r] = sum_k weights[r][k] * x[k]        with NORM x[k] becomes gain[k] * x[k] / sqrt(mean(x^2) + eps)
//   out[r] = y[r];  with RESIDUAL out[r] += y[r];  with GATED out[r] = silu(y[r]) * y[rows + r]
//
//   weights, scales   [rows][cols], with GATED [2 * rows][cols]: src/core/weight_layout.ts
//   x      f32  [cols], from quad x_quad on
//   gain   f32  [cols], read with NORM only
//   out    f32  [rows], from out_first on
//
// A workgroup makes ROWS sums: as many rows, with GATED four and their partners. Its lanes go along a row a load at a
// time and keep what they read of x for all of them; x^2 is summed on the way. Columns past the last count as zeros.
#import reduce
#import weight_q8_0 // @param WEIGHT

const WG: u32 = 64u;          // @param lanes per workgroup
const ROWS: u32 = 8u;         // @param 4 or 8, with GATED 8
const NORM: bool = false;     // @param
const RESIDUAL: bool = false; // @param
const GATED: bool = false;    // @param

struct Params {
    rows: u32,
    units: u32, // of a row
    quads: u32, // cols / 4
    x_quad: u32,
    out_first: u32,
    eps: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> x: array<vec4f>;
@group(0) @binding(4) var<storage, read> gain: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

fn x_at(quad: u32) -> vec4f {
    return select(vec4f(), x[params.x_quad + quad], quad < params.quads);
}

fn dot4(units: vec4u, v: mat4x4f) -> vec4f {
    return vec4f(weight_dot(units.x, v), weight_dot(units.y, v), weight_dot(units.z, v), weight_dot(units.w, v));
}

/// What a unit adds: products with four rows, with four more, and squares of x; `rows_a`, `rows_b` are the rows' first
/// units.
fn step(unit: u32, rows_a: vec4u, rows_b: vec4u) -> mat3x4f {
    let quad = 4u * unit;
    var v = mat4x4f(x_at(quad), x_at(quad + 1u), x_at(quad + 2u), x_at(quad + 3u));
    var sums: mat3x4f;
    if NORM {
        sums[2] = v[0] * v[0] + v[1] * v[1] + v[2] * v[2] + v[3] * v[3];
        v = mat4x4f(v[0] * gain[quad], v[1] * gain[quad + 1u], v[2] * gain[quad + 2u], v[3] * gain[quad + 3u]);
    }
    sums[0] = dot4(rows_a + unit, v);
    if ROWS == 8u { sums[1] = dot4(rows_b + unit, v); }
    return sums;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let outs = select(ROWS, 4u, GATED);
    let row = wg.x * outs;
    let mine = params.out_first + row + lane;
    let writes = lane < outs && row + lane < params.rows;
    var residual = 0.0;
    if RESIDUAL && writes { residual = out[mine]; }

    let last = vec4u(params.rows - 1u);
    let rows_a = min(row + vec4u(0u, 1u, 2u, 3u), last) * params.units;
    var rows_b = min(row + vec4u(4u, 5u, 6u, 7u), last) * params.units;
    if GATED { rows_b = rows_a + params.rows * params.units; }
    // The sums live in main's own variable: as a module variable they went to memory on one driver.
    var sums: mat3x4f;
    for (var i = lane * WEIGHT_UNITS; i < params.units; i += WG * WEIGHT_UNITS) {
        sums += step(weight_unit(i), rows_a, rows_b);
        if WEIGHT_UNITS > 1u { sums += step(weight_unit(i + 1u), rows_a, rows_b); }
    }

    var a = workgroup_sum4(sums[0], lane);
    var b = vec4f();
    if ROWS == 8u { b = workgroup_sum4(sums[1], lane); }
    if NORM {
        let mean = workgroup_sum(dot(sums[2], vec4f(1.0)), lane) / (4.0 * f32(params.quads));
        let norm = inverseSqrt(mean + params.eps);
        a *= norm;
        b *= norm;
    }
    if GATED { a = a / (1.0 + exp(-a)) * b; }
    let quad = select(a, b, lane >= 4u);
    if writes { out[mine] = quad[lane & 3u] + residual; }
}
