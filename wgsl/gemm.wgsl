// gemm: products of f32 matrices, a batch at a time, in the forms that a network's training needs.
//
//   c[i][z][m][n] = sum of A[z](m, k) * B[z](k, n) over the k of split i
//
//   a  f32  [Z][M][K]       with A_T [Z][K][M]
//   b  f32  [Z][K][N]       with B_T [Z][N][K]; from one matrix to the next b_batch numbers
//   c  f32  [I][Z][M][N]    from one matrix to the next c_batch numbers, from one split to the next c_split
//
// BIAS is for linear layers, whose parameters are the weight [N][K] and then the bias [N]. Forward, with B_T, a batch
// of b is such a pair and the bias is added. For the gradient, with A_T, a batch of c is such a pair [M][N], [M], and
// the bias gets the sums of A over k.
//
// A workgroup makes a tile of TILE x TILE, a lane 8 x 8 of it in four quarters of 4 x 4. Along k it goes DEPTH at a
// time: half the lanes fetch a block of 4 x 4 of A each, half of B, while the previous blocks are multiplied. The order
// of every sum is that of k, whatever TILE is. M and N may be any size, but rows in memory are multiples of 4 numbers.

const TILE: u32 = 64u;    // @param 32, 64 or 128
const A_T: bool = false;  // @param
const B_T: bool = false;  // @param
const BIAS: bool = false; // @param
const LANES: u32 = TILE * TILE / 64u;
const DEPTH: u32 = TILE / 8u;
const QUADS: u32 = TILE / 4u;
const ROW: u32 = QUADS + 1u; // one more, so that blocks fall into different banks
const HALF: u32 = LANES / 2u;

struct Params {
    m: u32,
    n: u32,
    k: u32,
    splits: u32,
    k_split: u32, // a multiple of DEPTH
    b_batch: u32,
    c_batch: u32,
    c_split: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;
@group(0) @binding(2) var<storage, read> b: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> c: array<vec4f>;

/// Quads along m at each of DEPTH k, then quads along n.
var<workgroup> sh: array<vec4f, 2u * DEPTH * ROW>;

/// Quarters of the lane's 8 x 8: column j of a quarter is four numbers of row j.
var<private> c00: mat4x4f;
var<private> c01: mat4x4f;
var<private> c10: mat4x4f;
var<private> c11: mat4x4f;

/// Four quads of a, `width` numbers a row, from (row, col) on; zeros from row `rows` and from column `cols` on.
fn fetch_a(base: u32, row: u32, col: u32, rows: u32, cols: u32, width: u32) -> mat4x4f {
    let at = (base + row * width + col) / 4u;
    let step = width / 4u;
    let fits = vec4<bool>(row < rows, row + 1u < rows, row + 2u < rows, row + 3u < rows) & vec4<bool>(col < cols);
    return mat4x4f(select(vec4f(), a[at], fits.x), select(vec4f(), a[at + step], fits.y),
        select(vec4f(), a[at + 2u * step], fits.z), select(vec4f(), a[at + 3u * step], fits.w));
}

fn fetch_b(base: u32, row: u32, col: u32, rows: u32, cols: u32, width: u32) -> mat4x4f {
    let at = (base + row * width + col) / 4u;
    let step = width / 4u;
    let fits = vec4<bool>(row < rows, row + 1u < rows, row + 2u < rows, row + 3u < rows) & vec4<bool>(col < cols);
    return mat4x4f(select(vec4f(), b[at], fits.x), select(vec4f(), b[at + step], fits.y),
        select(vec4f(), b[at + 2u * step], fits.z), select(vec4f(), b[at + 3u * step], fits.w));
}

/// Adds the products of one k of the tile.
fn accumulate(k: u32, quad_m: u32, quad_n: u32) {
    let a0 = sh[k * ROW + quad_m];
    let a1 = sh[k * ROW + quad_m + QUADS / 2u];
    let b0 = sh[(DEPTH + k) * ROW + quad_n];
    let b1 = sh[(DEPTH + k) * ROW + quad_n + QUADS / 2u];
    c00 += mat4x4f(a0.x * b0, a0.y * b0, a0.z * b0, a0.w * b0);
    c01 += mat4x4f(a0.x * b1, a0.y * b1, a0.z * b1, a0.w * b1);
    c10 += mat4x4f(a1.x * b0, a1.y * b0, a1.z * b0, a1.w * b0);
    c11 += mat4x4f(a1.x * b1, a1.y * b1, a1.z * b1, a1.w * b1);
}

fn accumulate4(k: u32, quad_m: u32, quad_n: u32) {
    accumulate(k, quad_m, quad_n);
    accumulate(k + 1u, quad_m, quad_n);
    accumulate(k + 2u, quad_m, quad_n);
    accumulate(k + 3u, quad_m, quad_n);
}

/// Writes four numbers of c, if they are inside.
fn put(base: u32, m: u32, n: u32, value: vec4f, bias: vec4f) {
    if m < params.m && n < params.n { c[(base + m * params.n + n) / 4u] = value + bias; }
}

fn put_rows(base: u32, m: u32, n: u32, quarter: mat4x4f, bias: vec4f) {
    put(base, m, n, quarter[0], bias);
    put(base, m + 1u, n, quarter[1], bias);
    put(base, m + 2u, n, quarter[2], bias);
    put(base, m + 3u, n, quarter[3], bias);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let m0 = wg.y * TILE;
    let n0 = wg.x * TILE;
    let batch = wg.z / params.splits;
    let split = wg.z % params.splits;
    let k_end = min(params.k, (split + 1u) * params.k_split);
    let a_base = batch * params.m * params.k;
    let b_base = batch * params.b_batch;

    // The block that this lane fetches: 4 along k, 4 along m or n, the axis that is contiguous in memory first.
    let is_a = lane < HALF;
    let slot = select(lane - HALF, lane, is_a);
    let along_k = select(B_T, !A_T, is_a);
    let block_k = 4u * select(slot / QUADS, slot % (DEPTH / 4u), along_k);
    let quad = select(slot % QUADS, slot / (DEPTH / 4u), along_k);
    let target_at = (select(DEPTH, 0u, is_a) + block_k) * ROW + quad;

    let quad_m = lane / (QUADS / 2u);
    let quad_n = lane % (QUADS / 2u);
    let sums_bias = BIAS && A_T && wg.x == 0u && lane < QUADS;
    var bias_sum = vec4f();
    var block: mat4x4f;
    // The first turn only fetches; each later one stores what the turn before fetched.
    for (var k = split * params.k_split; k < k_end + DEPTH; k += DEPTH) {
        let stored = block;
        if k < k_end {
            if is_a {
                if A_T { block = fetch_a(a_base, k + block_k, m0 + 4u * quad, k_end, params.m, params.m); }
                else { block = transpose(fetch_a(a_base, m0 + 4u * quad, k + block_k, params.m, k_end, params.k)); }
            } else {
                if B_T { block = transpose(fetch_b(b_base, n0 + 4u * quad, k + block_k, params.n, k_end, params.k)); }
                else { block = fetch_b(b_base, k + block_k, n0 + 4u * quad, k_end, params.n, params.n); }
            }
        }
        if k == split * params.k_split { continue; }
        workgroupBarrier(); // the previous tile may still be in use
        sh[target_at] = stored[0];
        sh[target_at + ROW] = stored[1];
        sh[target_at + 2u * ROW] = stored[2];
        sh[target_at + 3u * ROW] = stored[3];
        workgroupBarrier();
        // Written out: as a loop, with the bound that naga adds to every turn, it is 10 % slower on an H200.
        accumulate4(0u, quad_m, quad_n);
        if DEPTH > 4u { accumulate4(4u, quad_m, quad_n); }
        if DEPTH > 8u { accumulate4(8u, quad_m, quad_n); }
        if DEPTH > 12u { accumulate4(12u, quad_m, quad_n); }
        if sums_bias {
            for (var i = 0u; i < DEPTH; i++) { bias_sum += sh[i * ROW + lane]; }
        }
    }

    let c_base = split * params.c_split + batch * params.c_batch;
    let m = m0 + 4u * quad_m;
    let n = n0 + 4u * quad_n;
    var bias0 = vec4f();
    var bias1 = vec4f();
    if BIAS && B_T {
        bias0 = b[(b_base + params.k * params.n + n) / 4u];
        bias1 = b[(b_base + params.k * params.n + n + TILE / 2u) / 4u];
    }
    put_rows(c_base, m, n, c00, bias0);
    put_rows(c_base, m, n + TILE / 2u, c01, bias1);
    put_rows(c_base, m + TILE / 2u, n, c10, bias0);
    put_rows(c_base, m + TILE / 2u, n + TILE / 2u, c11, bias1);
    if sums_bias && m0 + 4u * lane < params.m {
        c[(c_base + params.m * params.n + m0) / 4u + lane] = bias_sum;
    }
}
