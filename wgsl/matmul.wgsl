// matmul: many tokens' product with a matrix of any weight type.
//
//   out[t][n] = sum_k x[t][k] * weights[n][k];  with RESIDUAL +=
//
//   weights, scales   [N][K], from row `first` on: src/core/weight_layout.ts
//   x      f32  [T][K]
//   out    f32  [T][stride], from column `column` on
//
// A workgroup of 256 lanes makes a tile of TILE x TILE, going along k in steps of DEPTH units of 16, which it keeps in
// workgroup memory as quads along k. A lane sums BLOCK tokens x BLOCK rows in registers, LANES apart each way. Where
// the tile has fewer such blocks than lanes, PARTS lanes share a block, each with four of a step's quads, and are added
// up at the end. The next step's units are fetched, and weights turned into numbers, while this one's are multiplied:
// half the lanes fetch x and half weights, or in the smallest tile every lane both.
// T, N and K / 4 may be any size.
#import weight_q8_0 // @param WEIGHT

const TILE: u32 = 128u;       // @param 128, 32 or 16
const RESIDUAL: bool = false; // @param
const BLOCK: u32 = 4u + TILE / 128u * 4u;
const LANES: u32 = TILE / BLOCK;
const PARTS: u32 = 256u / (LANES * LANES);
const DEPTH: u32 = PARTS;
const QUADS: u32 = 4u * DEPTH;
const ITEMS: u32 = TILE * DEPTH; // units that a step takes of x, and of weights: 128 or 256
const SHUFFLE: u32 = min(8u, LANES) - 1u;

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

/// Quads of x [QUADS][TILE], then of weights; at the end the parts' sums.
var<workgroup> sh: array<vec4f, 2u * QUADS * TILE>;

/// Quarters of the lane's block: column i of a quarter is token i with four rows.
var<private> c00: mat4x4f;
var<private> c01: mat4x4f;
var<private> c10: mat4x4f;
var<private> c11: mat4x4f;

/// Where a quad of row `i` of a tile is kept: rows are shuffled by the quad, so that lanes that store meet other banks.
fn slot(quad: u32, i: u32) -> u32 {
    return quad * TILE + (i ^ ((((quad << 1u) & 6u) | ((quad >> 2u) & 1u)) & SHUFFLE));
}

fn fetch_x(first: u32, quad: u32) -> vec4f {
    return select(vec4f(), x[first + quad], quad < params.quads);
}

fn fetch_x16(first: u32, unit: u32) -> mat4x4f {
    let quad = 4u * unit;
    return mat4x4f(fetch_x(first, quad), fetch_x(first, quad + 1u), fetch_x(first, quad + 2u),
        fetch_x(first, quad + 3u));
}

fn store16(at: u32, unit: u32, i: u32, values: mat4x4f) {
    let quad = 4u * unit;
    sh[at + slot(quad, i)] = values[0];
    sh[at + slot(quad + 1u, i)] = values[1];
    sh[at + slot(quad + 2u, i)] = values[2];
    sh[at + slot(quad + 3u, i)] = values[3];
}

fn fold(c: vec4f, w: mat4x4f, x: vec4f) -> vec4f {
    return c + w[0] * x.x + w[1] * x.y + w[2] * x.z + w[3] * x.w;
}

/// Adds the products of one quad along k.
fn accumulate(quad: u32, t: u32, n: u32) {
    let xs = slot(quad, t);
    let ws = QUADS * TILE + slot(quad, n);
    let w0 = transpose(mat4x4f(sh[ws], sh[ws + LANES], sh[ws + 2u * LANES], sh[ws + 3u * LANES]));
    c00[0] = fold(c00[0], w0, sh[xs]);
    c00[1] = fold(c00[1], w0, sh[xs + LANES]);
    c00[2] = fold(c00[2], w0, sh[xs + 2u * LANES]);
    c00[3] = fold(c00[3], w0, sh[xs + 3u * LANES]);
    if BLOCK == 8u {
        let w1 = transpose(mat4x4f(sh[ws + 4u * LANES], sh[ws + 5u * LANES], sh[ws + 6u * LANES],
            sh[ws + 7u * LANES]));
        c01[0] = fold(c01[0], w1, sh[xs]);
        c01[1] = fold(c01[1], w1, sh[xs + LANES]);
        c01[2] = fold(c01[2], w1, sh[xs + 2u * LANES]);
        c01[3] = fold(c01[3], w1, sh[xs + 3u * LANES]);
        c10[0] = fold(c10[0], w0, sh[xs + 4u * LANES]);
        c10[1] = fold(c10[1], w0, sh[xs + 5u * LANES]);
        c10[2] = fold(c10[2], w0, sh[xs + 6u * LANES]);
        c10[3] = fold(c10[3], w0, sh[xs + 7u * LANES]);
        c11[0] = fold(c11[0], w1, sh[xs + 4u * LANES]);
        c11[1] = fold(c11[1], w1, sh[xs + 5u * LANES]);
        c11[2] = fold(c11[2], w1, sh[xs + 6u * LANES]);
        c11[3] = fold(c11[3], w1, sh[xs + 7u * LANES]);
    }
}

fn put(t: u32, n: u32, value: f32) {
    if t < params.tokens && n < params.rows {
        let at = t * params.stride + params.column + n;
        if RESIDUAL { out[at] += value; } else { out[at] = value; }
    }
}

/// Writes four rows of a token.
fn put4(t: u32, n: u32, values: vec4f) {
    put(t, n, values.x);
    put(t, n + LANES, values.y);
    put(t, n + 2u * LANES, values.z);
    put(t, n + 3u * LANES, values.w);
}

fn put16(t: u32, n: u32, quarter: mat4x4f) {
    put4(t, n, quarter[0]);
    put4(t + LANES, n, quarter[1]);
    put4(t + 2u * LANES, n, quarter[2]);
    put4(t + 3u * LANES, n, quarter[3]);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let t0 = wg.y * TILE;
    let n0 = wg.x * TILE;
    // What this lane fetches: neighbours read along k.
    let item = lane % ITEMS;
    let item_row = item / DEPTH;
    let item_unit = item % DEPTH;
    let has_x = lane < ITEMS;
    let has_w = !has_x || ITEMS == 256u;
    let x_first = min(t0 + item_row, params.tokens - 1u) * params.quads;
    let w_first = (params.first + min(n0 + item_row, params.rows - 1u)) * params.units;
    let last = params.units - 1u;
    // What it multiplies: eight neighbours, or four, go along n.
    var part = 0u;
    if PARTS > 1u { part = lane / (LANES * LANES); }
    let block = lane % (LANES * LANES);
    let n = (block & SHUFFLE) + (SHUFFLE + 1u) * ((block / (SHUFFLE + 1u)) / LANES);
    let t = (block / (SHUFFLE + 1u)) % LANES;

    var x_next: mat4x4f;
    var w_next: mat4x4f;
    if has_x { x_next = fetch_x16(x_first, item_unit); }
    if has_w { w_next = weight16(w_first + min(item_unit, last)); }
    for (var step = 0u; step < params.units; step += DEPTH) {
        workgroupBarrier(); // the previous step may still be in use
        if has_x { store16(0u, item_unit, item_row, x_next); }
        if has_w { store16(QUADS * TILE, item_unit, item_row, w_next); }
        workgroupBarrier();
        let unit = step + DEPTH + item_unit;
        if has_x { x_next = fetch_x16(x_first, unit); }
        if has_w { w_next = weight16(w_first + min(unit, last)); }
        accumulate(4u * part, t, n);
        accumulate(4u * part + 1u, t, n);
        accumulate(4u * part + 2u, t, n);
        accumulate(4u * part + 3u, t, n);
    }

    if PARTS == 1u {
        put16(t0 + t, n0 + n, c00);
        put16(t0 + t, n0 + n + 4u * LANES, c01);
        put16(t0 + t + 4u * LANES, n0 + n, c10);
        put16(t0 + t + 4u * LANES, n0 + n + 4u * LANES, c11);
        return;
    }
    workgroupBarrier();
    const ROW = LANES * LANES;
    sh[(4u * part) * ROW + block] = c00[0];
    sh[(4u * part + 1u) * ROW + block] = c00[1];
    sh[(4u * part + 2u) * ROW + block] = c00[2];
    sh[(4u * part + 3u) * ROW + block] = c00[3];
    workgroupBarrier();
    if part < 4u { // adds up a row of the block each
        var sum = vec4f();
        for (var p = 0u; p < PARTS; p++) { sum += sh[(4u * p + part) * ROW + block]; }
        put4(t0 + t + part * LANES, n0 + n, sum);
    }
}
