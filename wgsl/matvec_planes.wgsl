// matvec_planes: one token's product with a Q8_0 or Q4_0 matrix by integers, fused as matvec.wgsl is.
//
//   y[r] = sum_k weights[r][k] * step * q[k],   q[k] = round(x[k] / step),   |q| <= 127 * 2^15
//   with NORM x[k] is gain[k] * x[k], and y[r] divided by sqrt(mean(x^2) + eps)
//   out[r] = y[r];  with RESIDUAL out[r] += y[r];  with GATED out[r] = silu(y[r]) * y[rows + r]
//
//   weights, scales   [rows][cols], with GATED [2 * rows][cols]: src/core/weight_layout.ts
//   x      f32  [cols], from quad x_quad on
//   gain   f32  [cols], read with NORM only
//   out    f32  [rows], from out_first on
//
// A lane has the columns of a load of 16 bytes, half a block of Q8_0 or a whole one of Q4_0, and these have a step: 2^-21
// 128/127 times the power of two at or below the largest of them. q is three planes of signed bytes, which meet the
// weights' bytes four products at a time.
//
// A lane makes the planes of its own columns, keeps them in registers, and takes these columns of all rows that the
// workgroup makes, eight at a time: the next eight travel while the lanes add up. Columns past the last count as zeros; one
// that is not finite makes its lane's NaN.
#import planes_q8_0 // @param WEIGHT planes_q8_0 or planes_q4_0
#import row_sums

const WG: u32 = 256u;         // @param lanes per workgroup, one a load; with subgroups whole ones
const NORM: bool = false;     // @param
const RESIDUAL: bool = false; // @param
const GATED: bool = false;    // @param

const ROWS: u32 = 8u; // at a time, with GATED half of them and their partners
const OUTS: u32 = select(ROWS, ROWS / 2u, GATED);

struct Params {
    rows: u32,
    loads: u32, // of a row
    quads: u32, // cols / 4
    x_quad: u32,
    out_first: u32,
    span: u32, // rows of a workgroup, a multiple of OUTS
    eps: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<Load>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4f>;
@group(0) @binding(4) var<storage, read> gain: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

/// Numbers of a lane's columns, sixteen a matrix.
alias Numbers = array<mat4x4f, SIXTEENS>;

/// Sixteen columns: bytes of 2^16, of 2^8, and of 1.
struct Planes {
    a: vec4u,
    b: vec4u,
    c: vec4u,
}

/// A lane's columns, and their step.
struct Columns {
    planes: array<Planes, SIXTEENS>,
    step: f32,
}

/// A lane's part of a row, and the pair of scales that has its block's.
struct Part {
    load: Load,
    scales: u32,
}

/// The first quad of x of a lane's sixteen columns.
fn quad_of(lane: u32, sixteen: u32) -> u32 {
    return 4u * (SIXTEENS * lane + sixteen);
}

fn x_at(quad: u32) -> vec4f {
    return select(vec4f(), x[params.x_quad + quad], quad < params.quads);
}

fn x_of(lane: u32, sixteen: u32) -> mat4x4f {
    let quad = quad_of(lane, sixteen);
    return mat4x4f(x_at(quad), x_at(quad + 1u), x_at(quad + 2u), x_at(quad + 3u));
}

fn gained(v: mat4x4f, quad: u32) -> mat4x4f {
    return mat4x4f(v[0] * gain[quad], v[1] * gain[quad + 1u], v[2] * gain[quad + 2u], v[3] * gain[quad + 3u]);
}

fn squares_of(v: mat4x4f) -> f32 {
    return dot(v[0], v[0]) + dot(v[1], v[1]) + dot(v[2], v[2]) + dot(v[3], v[3]);
}

const INFINITY: u32 = 0x7f800000u; // its bits

fn magnitudes(v: vec4f) -> vec4u {
    return bitcast<vec4u>(v) & vec4u(0x7fffffffu);
}

/// Bits of the largest magnitude; a NaN's are above all.
fn largest(v: mat4x4f) -> u32 {
    let m = max(max(magnitudes(v[0]), magnitudes(v[1])), max(magnitudes(v[2]), magnitudes(v[3])));
    return max(max(m.x, m.y), max(m.z, m.w));
}

fn low_bytes(q: vec4u) -> u32 {
    return (q.x & 255u) | ((q.y & 255u) << 8u) | ((q.z & 255u) << 16u) | (q.w << 24u);
}

/// 1.5 * 2^23, and its bits: a number below 2^22 that is added to it is rounded, and is then added to these bits.
const ROUNDING: f32 = 12582912.0;
const ZERO: u32 = 0x4b400000u;

/// Four columns' bytes, a word a plane; what a plane rounds away the next one has, whatever its sign.
fn split(v: vec4f, inverse: f32) -> vec3u {
    let q = bitcast<vec4u>(fma(v, vec4f(inverse), vec4f(ROUNDING))) - vec4u(ZERO);
    let a = (q + vec4u(0x8080u)) >> vec4u(16u);
    let b = (q + vec4u(0x80u)) >> vec4u(8u);
    return vec3u(low_bytes(a), low_bytes(b), low_bytes(q));
}

/// Sixteen columns' bytes.
fn planes_of(v: mat4x4f, inverse: f32) -> Planes {
    let x = split(v[0], inverse);
    let y = split(v[1], inverse);
    let z = split(v[2], inverse);
    let w = split(v[3], inverse);
    return Planes(vec4u(x.x, y.x, z.x, w.x), vec4u(x.y, y.y, z.y, w.y), vec4u(x.z, y.z, z.z, w.z));
}

/// Free of branches, so that the weights' loads stay before it.
fn columns(v: Numbers) -> Columns {
    var most = largest(v[0]);
    if SIXTEENS > 1u { most = max(most, largest(v[SIXTEENS - 1u])); }
    // From 2^-103 down the power stays, so that it and its inverse are normal numbers.
    let power = max(most & INFINITY, 24u << 23u);
    let inverse = bitcast<f32>((275u << 23u) - power) * (127.0 / 128.0);
    let step = bitcast<f32>(power - (21u << 23u)) * (128.0 / 127.0 / LEVEL);
    var own: Columns;
    own.step = bitcast<f32>(select(bitcast<u32>(step), 0x7fc00000u, most >= INFINITY));
    own.planes[0] = planes_of(v[0], inverse);
    if SIXTEENS > 1u { own.planes[SIXTEENS - 1u] = planes_of(v[SIXTEENS - 1u], inverse); }
    return own;
}

fn bytes_dot(w: vec4u, plane: vec4u) -> i32 {
    return dot4I8Packed(w.x, plane.x) + dot4I8Packed(w.y, plane.y) + dot4I8Packed(w.z, plane.z) +
        dot4I8Packed(w.w, plane.w);
}

/// Products of a load's columns with each plane.
fn planes_dot(load: Load, own: Columns) -> vec3i {
    let w = signed_bytes(load, 0u);
    let x = own.planes[0];
    var sum = vec3i(bytes_dot(w, x.a), bytes_dot(w, x.b), bytes_dot(w, x.c));
    if SIXTEENS > 1u {
        let w_last = signed_bytes(load, SIXTEENS - 1u);
        let last = own.planes[SIXTEENS - 1u];
        sum += vec3i(bytes_dot(w_last, last.a), bytes_dot(w_last, last.b), bytes_dot(w_last, last.c));
    }
    return sum;
}

/// A sum below 2^22 as a number.
fn number(sum: i32) -> f32 {
    return bitcast<f32>(sum + i32(ZERO)) - ROUNDING;
}

/// The product with a lane's columns, but for its scale and their step.
fn load_dot(load: Load, x: Columns) -> f32 {
    let sum = planes_dot(load, x);
    return fma(number(sum.x), 65536.0, fma(number(sum.y), 256.0, number(sum.z)));
}

/// Where the k-th of a lane's eight loads is, one of each of the rows from `row` on.
fn place(row: u32, k: u32, lane: u32) -> u32 {
    let r = min(row + k % OUTS, params.rows - 1u) + k / OUTS * params.rows;
    return r * params.loads + min(lane, params.loads - 1u);
}

fn part_at(row: u32, k: u32, lane: u32) -> Part {
    let at = place(row, k, lane);
    return Part(weights[at], scales[at * SIXTEENS >> 2u]);
}

fn eight(row: u32, lane: u32) -> array<Part, 8> {
    return array(
        part_at(row, 0u, lane), part_at(row, 1u, lane), part_at(row, 2u, lane), part_at(row, 3u, lane),
        part_at(row, 4u, lane), part_at(row, 5u, lane), part_at(row, 6u, lane), part_at(row, 7u, lane),
    );
}

/// What the k-th load adds to its row.
fn product(part: Part, row: u32, k: u32, lane: u32, x: Columns) -> f32 {
    let block = place(row, k, lane) * SIXTEENS >> 1u;
    let scale = unpack2x16float(part.scales >> ((block & 1u) << 4u)).x;
    return scale * x.step * load_dot(part.load, x);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first = wg.x * params.span;
    let end = min(first + params.span, params.rows);
    var parts = eight(first, lane);

    var v: Numbers;
    v[0] = x_of(lane, 0u);
    if SIXTEENS > 1u { v[SIXTEENS - 1u] = x_of(lane, SIXTEENS - 1u); }
    let room = rows_begin();
    if NORM {
        var squares = squares_of(v[0]);
        if SIXTEENS > 1u { squares += squares_of(v[SIXTEENS - 1u]); }
        rows_note(room, vec4f(squares, 0.0, 0.0, 0.0), lane);
        v[0] = gained(v[0], quad_of(lane, 0u));
        if SIXTEENS > 1u { v[SIXTEENS - 1u] = gained(v[SIXTEENS - 1u], quad_of(lane, SIXTEENS - 1u)); }
    }
    let own = columns(v);

    let fits = min(select(room, room / 2u, GATED), WG);
    for (var base = first; base < end; base += fits) {
        let stop = min(base + fits, end);
        let mine = params.out_first + base + lane;
        let writes = base + lane < stop;
        var residual = 0.0;
        if RESIDUAL && writes { residual = out[mine]; }
        for (var row = base; row < stop; row += OUTS) {
            let a = vec4f(product(parts[0], row, 0u, lane, own), product(parts[1], row, 1u, lane, own),
                product(parts[2], row, 2u, lane, own), product(parts[3], row, 3u, lane, own));
            let b = vec4f(product(parts[4], row, 4u, lane, own), product(parts[5], row, 5u, lane, own),
                product(parts[6], row, 6u, lane, own), product(parts[7], row, 7u, lane, own));
            if row + OUTS < end { parts = eight(row + OUTS, lane); }
            let at = (row - base) / OUTS * ROWS;
            rows_note(at, a, lane);
            rows_note(at + 4u, b, lane);
        }
        workgroupBarrier();
        if writes {
            let at = lane / OUTS * ROWS + lane % OUTS;
            var norm = 1.0;
            if NORM { norm = inverseSqrt(rows_sum(room) / (4.0 * f32(params.quads)) + params.eps); }
            var y = rows_sum(at) * norm;
            if GATED { y = y / (1.0 + exp(-y)) * (rows_sum(at + OUTS) * norm); }
            out[mine] = y + residual;
        }
        workgroupBarrier(); // the next rows go where these were
    }
}
