// matvec_planes: one token's product with a Q8_0 or Q4_0 matrix by integers, fused as matvec.wgsl is.
//
//   y[r] = sum_k weights[r][k] * step * q[k],   q[k] = round(x[k] / step),   |q| <= 127 * 2^16
//   with NORM x[k] is gain[k] * x[k], and y[r] divided by sqrt(mean(x^2) + eps)
//   out[r] = y[r];  with RESIDUAL out[r] += y[r];  with GATED out[r] = silu(y[r]) * y[rows + r]
//
//   weights, scales   [rows][cols], with GATED [2 * rows][cols]: src/core/weight_layout.ts
//   x      f32  [cols], from quad x_quad on
//   gain   f32  [cols], read with NORM only
//   out    f32  [rows], from out_first on
//
// A step serves the columns of one word of 16 bytes, 16 or, of nibbles, 32: 2^-22 128/127 times the power of two at or
// below the largest of them. q is three planes of signed bytes, which meet the weights' bytes four products at a time.
//
// A lane makes the planes of its own columns, keeps them in registers, and takes these columns of all rows that the
// workgroup makes, eight words at a time: the next eight travel while the lanes add up. Columns past the last count as
// zeros. An infinity alone among a step's columns gives what matvec gives; more of them, or a NaN, give NaN.
#import row_sums

const WG: u32 = 256u;         // @param lanes per workgroup, one for every word of a row; with subgroups whole ones
const NIBBLES: bool = false;  // @param Q4_0, not Q8_0
const NORM: bool = false;     // @param
const RESIDUAL: bool = false; // @param
const GATED: bool = false;    // @param

const ROWS: u32 = 8u; // at a time, with GATED half of them and their partners
const OUTS: u32 = select(ROWS, ROWS / 2u, GATED);

struct Params {
    rows: u32,
    words: u32, // of a row
    quads: u32, // cols / 4
    x_quad: u32,
    out_first: u32,
    span: u32, // rows of a workgroup, a multiple of OUTS
    eps: f32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<vec4u>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<vec4f>;
@group(0) @binding(4) var<storage, read> gain: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

/// Sixteen columns: bytes of 2^16, of 2^8, and of 1.
struct Planes {
    a: vec4u,
    b: vec4u,
    c: vec4u,
}

/// The columns of a word: `high` those of the high nibbles.
struct Columns {
    low: Planes,
    high: Planes,
    step: f32,
}

/// A word of the matrix, and the pair of scales that has its own.
struct Word {
    bytes: vec4u,
    scales: u32,
}

fn x_at(quad: u32) -> vec4f {
    return select(vec4f(), x[params.x_quad + quad], quad < params.quads);
}

fn x_unit(unit: u32) -> mat4x4f {
    let quad = 4u * unit;
    return mat4x4f(x_at(quad), x_at(quad + 1u), x_at(quad + 2u), x_at(quad + 3u));
}

fn times_gain(v: mat4x4f, unit: u32) -> mat4x4f {
    let quad = 4u * unit;
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

fn signs(v: vec4f) -> vec4f {
    return select(vec4f(), sign(v), magnitudes(v) == vec4u(INFINITY));
}

/// Infinities as 1 and -1, all else as 0.
fn infinities(v: mat4x4f) -> mat4x4f {
    return mat4x4f(signs(v[0]), signs(v[1]), signs(v[2]), signs(v[3]));
}

fn low_bytes(q: vec4u) -> u32 {
    return (q.x & 255u) | ((q.y & 255u) << 8u) | ((q.z & 255u) << 16u) | (q.w << 24u);
}

/// Four columns' bytes, a word a plane; what a plane rounds away the next one has, whatever its sign.
fn split(v: vec4f) -> vec3u {
    let q = bitcast<vec4u>(vec4i(round(v)));
    let a = (q + vec4u(0x8080u)) >> vec4u(16u);
    let b = (q + vec4u(0x80u)) >> vec4u(8u);
    return vec3u(low_bytes(a), low_bytes(b), low_bytes(q));
}

fn planes(v: mat4x4f, inverse: f32) -> Planes {
    let a = split(v[0] * inverse);
    let b = split(v[1] * inverse);
    let c = split(v[2] * inverse);
    let d = split(v[3] * inverse);
    return Planes(vec4u(a.x, b.x, c.x, d.x), vec4u(a.y, b.y, c.y, d.y), vec4u(a.z, b.z, c.z, d.z));
}

/// Columns of one word; without NIBBLES `low` alone.
fn columns(low: mat4x4f, high: mat4x4f) -> Columns {
    let most = max(largest(low), largest(high));
    // From 2^-103 down the power stays, so that it and its inverse are normal numbers.
    let power = max(most & INFINITY, 24u << 23u);
    var inverse = bitcast<f32>((276u << 23u) - power) * (127.0 / 128.0);
    let weight = select(1.0, 16.0, NIBBLES); // nibbles come as 16 times what they are
    var step = bitcast<f32>(power - (22u << 23u)) * (128.0 / 127.0 / weight);
    var l = low;
    var h = high;
    if most >= INFINITY {
        l = infinities(low);
        h = infinities(high);
        inverse = 1.0;
        step = bitcast<f32>(select(0x7fc00000u, most, squares_of(l) + squares_of(h) <= 1.0));
    }
    return Columns(planes(l, inverse), planes(h, inverse), step);
}

const ZERO: i32 = 0x4b400000; // bits of 1.5 * 2^23: an integer added to them adds to that number, below 2^22

fn plane_dot(w: vec4u, plane: vec4u, sum: i32) -> i32 {
    return sum + dot4I8Packed(w.x, plane.x) + dot4I8Packed(w.y, plane.y) + dot4I8Packed(w.z, plane.z) +
        dot4I8Packed(w.w, plane.w);
}

fn number(bits: i32) -> f32 {
    return bitcast<f32>(bits) - 12582912.0;
}

/// A word's product with its columns, but for its scale and their step.
fn word_dot(bytes: vec4u, x: Columns) -> f32 {
    var low = bytes;
    if NIBBLES { low = ((bytes << vec4u(4u)) & vec4u(0xf0f0f0f0u)) ^ vec4u(0x80808080u); } // 16 (q - 8)
    var a = plane_dot(low, x.low.a, ZERO);
    var b = plane_dot(low, x.low.b, ZERO);
    var c = plane_dot(low, x.low.c, ZERO);
    if NIBBLES {
        let high = (bytes & vec4u(0xf0f0f0f0u)) ^ vec4u(0x80808080u);
        a = plane_dot(high, x.high.a, a);
        b = plane_dot(high, x.high.b, b);
        c = plane_dot(high, x.high.c, c);
    }
    return fma(number(a), 65536.0, fma(number(b), 256.0, number(c)));
}

/// Where the k-th of a lane's eight words is, one of each of the rows from `row` on.
fn place(row: u32, k: u32, lane: u32) -> u32 {
    let r = min(row + k % OUTS, params.rows - 1u) + k / OUTS * params.rows;
    return r * params.words + min(lane, params.words - 1u);
}

fn block_at(at: u32) -> u32 {
    return select(at >> 1u, at, NIBBLES);
}

fn word(row: u32, k: u32, lane: u32) -> Word {
    let at = place(row, k, lane);
    return Word(weights[at], scales[block_at(at) >> 1u]);
}

fn eight(row: u32, lane: u32) -> array<Word, 8> {
    return array(
        word(row, 0u, lane), word(row, 1u, lane), word(row, 2u, lane), word(row, 3u, lane),
        word(row, 4u, lane), word(row, 5u, lane), word(row, 6u, lane), word(row, 7u, lane),
    );
}

/// What the k-th word adds to its row.
fn part(w: Word, row: u32, k: u32, lane: u32, x: Columns) -> f32 {
    let scale = unpack2x16float(w.scales >> ((block_at(place(row, k, lane)) & 1u) << 4u)).x;
    return scale * x.step * word_dot(w.bytes, x);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first = wg.x * params.span;
    let end = min(first + params.span, params.rows);
    var words = eight(first, lane);

    let unit = select(lane, 2u * lane, NIBBLES);
    var low = x_unit(unit);
    var high = mat4x4f();
    if NIBBLES { high = x_unit(unit + 1u); }
    let room = rows_begin();
    if NORM {
        rows_note(room, vec4f(squares_of(low) + squares_of(high), 0.0, 0.0, 0.0), lane);
        low = times_gain(low, unit);
        if NIBBLES { high = times_gain(high, unit + 1u); }
    }
    let own = columns(low, high);

    let fits = min(select(room, room / 2u, GATED), WG);
    for (var base = first; base < end; base += fits) {
        let stop = min(base + fits, end);
        let mine = params.out_first + base + lane;
        let writes = base + lane < stop;
        var residual = 0.0;
        if RESIDUAL && writes { residual = out[mine]; }
        for (var row = base; row < stop; row += OUTS) {
            let a = vec4f(part(words[0], row, 0u, lane, own), part(words[1], row, 1u, lane, own),
                part(words[2], row, 2u, lane, own), part(words[3], row, 3u, lane, own));
            let b = vec4f(part(words[4], row, 4u, lane, own), part(words[5], row, 5u, lane, own),
                part(words[6], row, 6u, lane, own), part(words[7], row, 7u, lane, own));
            if row + OUTS < end { words = eight(row + OUTS, lane); }
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
