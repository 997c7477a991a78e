// matmul: many tokens' product with a matrix of any weight type.
//
//   out[t][n] = sum_k x[t][k] * weights[n][k];  with RESIDUAL +=
//
//   weights, scales   [N][K], from row `first` on: src/core/weight_layout.ts
//   x      f32  [T][K]
//   out    f32  [T][stride], from column `column` on
//
// A workgroup of 256 lanes makes a tile of TILE_T x TILE_N, going along k in steps of DEPTH units of 16, which it keeps
// in workgroup memory as quads along k: one unit of weights, turned into numbers, and two quads of x a lane. A lane sums
// BLOCK tokens x BLOCK rows in registers, LANES_T and LANES_N apart. Where a small tile has fewer such blocks than
// lanes, PARTS lanes share a block, each with its part of a step's quads, and are added up at the end.
// The next step's numbers are fetched while this one's are multiplied. T, N and K / 4 may be any size.
#import weight_q8_0 // @param WEIGHT

const TILE_T: u32 = 128u;     // @param
const TILE_N: u32 = 128u;     // @param
const BLOCK: u32 = 8u;        // @param 4 or 8
const RESIDUAL: bool = false; // @param
const LANES: u32 = 256u;
const LANES_T: u32 = TILE_T / BLOCK;
const LANES_N: u32 = TILE_N / BLOCK;
const PARTS: u32 = LANES / (LANES_T * LANES_N);
const DEPTH: u32 = 128u / TILE_T;
const QUADS: u32 = 4u * DEPTH;
const SHUFFLE: u32 = min(8u, LANES_T) - 1u;

struct Params {
    tokens: u32,
    rows: u32,
    first: u32,
    units: u32, // of a row
    quads: u32, // K / 4
    stride: u32,
    column: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> x: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

/// Quads of x [QUADS][TILE_T], then of weights [QUADS][TILE_N]; at the end the parts' sums.
var<workgroup> sh: array<vec4f, QUADS * (TILE_T + TILE_N)>;

/// Quarters of the lane's block: column i of a quarter is token i with four rows.
var<private> c00: mat4x4f;
var<private> c01: mat4x4f;
var<private> c10: mat4x4f;
var<private> c11: mat4x4f;

/// Where row `i` of a tile keeps a quad: rows are shuffled by the quad, so that lanes that store meet different banks.
fn slot(quad: u32, i: u32) -> u32 {
    return i ^ ((((quad << 1u) & 6u) | ((quad >> 2u) & 1u)) & SHUFFLE);
}

fn fetch_x(t: u32, quad: u32) -> vec4f {
    return select(vec4f(), x[min(t, params.tokens - 1u) * params.quads + quad], quad < params.quads);
}

fn fetch_weights(n: u32, unit: u32) -> mat4x4f {
    return weight16((params.first + min(n, params.rows - 1u)) * params.units + min(unit, params.units - 1u));
}

fn fold(c: vec4f, w: mat4x4f, x: vec4f) -> vec4f {
    return c + w[0] * x.x + w[1] * x.y + w[2] * x.z + w[3] * x.w;
}

/// Adds the products of one quad along k.
fn accumulate(quad: u32, t: u32, n: u32) {
    let xs = quad * TILE_T + slot(quad, t);
    let ws = QUADS * TILE_T + quad * TILE_N + slot(quad, n);
    let w0 = transpose(mat4x4f(sh[ws], sh[ws + LANES_N], sh[ws + 2u * LANES_N], sh[ws + 3u * LANES_N]));
    c00[0] = fold(c00[0], w0, sh[xs]);
    c00[1] = fold(c00[1], w0, sh[xs + LANES_T]);
    c00[2] = fold(c00[2], w0, sh[xs + 2u * LANES_T]);
    c00[3] = fold(c00[3], w0, sh[xs + 3u * LANES_T]);
    if BLOCK == 8u {
        let w1 = transpose(mat4x4f(sh[ws + 4u * LANES_N], sh[ws + 5u * LANES_N], sh[ws + 6u * LANES_N],
            sh[ws + 7u * LANES_N]));
        c01[0] = fold(c01[0], w1, sh[xs]);
        c01[1] = fold(c01[1], w1, sh[xs + LANES_T]);
        c01[2] = fold(c01[2], w1, sh[xs + 2u * LANES_T]);
        c01[3] = fold(c01[3], w1, sh[xs + 3u * LANES_T]);
        c10[0] = fold(c10[0], w0, sh[xs + 4u * LANES_T]);
        c10[1] = fold(c10[1], w0, sh[xs + 5u * LANES_T]);
        c10[2] = fold(c10[2], w0, sh[xs + 6u * LANES_T]);
        c10[3] = fold(c10[3], w0, sh[xs + 7u * LANES_T]);
        c11[0] = fold(c11[0], w1, sh[xs + 4u * LANES_T]);
        c11[1] = fold(c11[1], w1, sh[xs + 5u * LANES_T]);
        c11[2] = fold(c11[2], w1, sh[xs + 6u * LANES_T]);
        c11[3] = fold(c11[3], w1, sh[xs + 7u * LANES_T]);
    }
}

fn put(t: u32, n: u32, value: f32) {
    if t < params.tokens && n < params.rows {
        let at = t * params.stride + params.column + n;
        if RESIDUAL { out[at] += value; } else { out[at] = value; }
    }
}

fn put_row(t: u32, n: u32, values: vec4f) {
    put(t, n, values.x);
    put(t, n + LANES_N, values.y);
    put(t, n + 2u * LANES_N, values.z);
    put(t, n + 3u * LANES_N, values.w);
}

fn put_quarter(t: u32, n: u32, quarter: mat4x4f) {
    put_row(t, n, quarter[0]);
    put_row(t + LANES_T, n, quarter[1]);
    put_row(t + 2u * LANES_T, n, quarter[2]);
    put_row(t + 3u * LANES_T, n, quarter[3]);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let t0 = wg.y * TILE_T;
    let n0 = wg.x * TILE_N;
    // What this lane fetches: neighbours read along k.
    let x_t = lane / QUADS;
    let x_quad = lane % QUADS;
    let w_n = lane / DEPTH;
    let w_unit = lane % DEPTH;
    let has_unit = lane < TILE_N * DEPTH;
    // What it multiplies: eight neighbours go along n.
    let part = lane / (LANES_T * LANES_N);
    let block = lane % (LANES_T * LANES_N);
    let n = (block & 7u) + 8u * ((block / 8u) / LANES_T);
    let t = (block / 8u) % LANES_T;

    var x0 = fetch_x(t0 + x_t, x_quad);
    var x1 = fetch_x(t0 + x_t + TILE_T / 2u, x_quad);
    var w: mat4x4f;
    if has_unit { w = fetch_weights(n0 + w_n, w_unit); }
    for (var unit = 0u; unit < params.units; unit += DEPTH) {
        workgroupBarrier(); // the previous step may still be in use
        sh[x_quad * TILE_T + slot(x_quad, x_t)] = x0;
        sh[x_quad * TILE_T + slot(x_quad, x_t + TILE_T / 2u)] = x1;
        if has_unit {
            let at = QUADS * TILE_T + 4u * w_unit * TILE_N;
            sh[at + slot(4u * w_unit, w_n)] = w[0];
            sh[at + TILE_N + slot(4u * w_unit + 1u, w_n)] = w[1];
            sh[at + 2u * TILE_N + slot(4u * w_unit + 2u, w_n)] = w[2];
            sh[at + 3u * TILE_N + slot(4u * w_unit + 3u, w_n)] = w[3];
        }
        workgroupBarrier();
        let next = unit + DEPTH;
        if next < params.units {
            x0 = fetch_x(t0 + x_t, 4u * next + x_quad);
            x1 = fetch_x(t0 + x_t + TILE_T / 2u, 4u * next + x_quad);
            if has_unit { w = fetch_weights(n0 + w_n, next + w_unit); }
        }
        for (var q = part * QUADS / PARTS; q < (part + 1u) * QUADS / PARTS; q += 4u) {
            accumulate(q, t, n);
            accumulate(q + 1u, t, n);
            accumulate(q + 2u, t, n);
            accumulate(q + 3u, t, n);
        }
    }

    if PARTS > 1u {
        workgroupBarrier();
        let parts_apart = 4u * LANES_T * LANES_N;
        let at = part * parts_apart + block;
        sh[at] = c00[0];
        sh[at + LANES_T * LANES_N] = c00[1];
        sh[at + 2u * LANES_T * LANES_N] = c00[2];
        sh[at + 3u * LANES_T * LANES_N] = c00[3];
        workgroupBarrier();
        // ... each part adds up one row of the blocks
        for (var i = part; i < 4u; i += PARTS) {
            var sum = vec4f();
            for (var p = 0u; p < PARTS; p++) { sum += sh[p * parts_apart + i * LANES_T * LANES_N + block]; }
            put_row(t0 + t + i * LANES_T, n0 + n, sum);
        }
    } else {
        put_quarter(t0 + t, n0 + n, c00);
        if BLOCK == 8u {
            put_quarter(t0 + t, n0 + n + 4u * LANES_N, c01);
            put_quarter(t0 + t + 4u * LANES_T, n0 + n, c10);
            put_quarter(t0 + t + 4u * LANES_T, n0 + n + 4u * LANES_N, c11);
        }
    }
}
