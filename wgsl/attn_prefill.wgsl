// attn_prefill: causal attention of many new tokens to an exact cache, tile by tile with an online softmax.
//
//   s[n]   = sum_c q[t][h][c] * keys[k][start + n][c]       n < seen + t, and as MASK says
//   out[c] = sum_n exp(s[n] - m) * values[k][start + n][c], m = max_n s[n], over d = sum_n exp(s[n] - m) unless PARTIAL
//   md     = (m, d)
//
//   q       f32    [T][K * GROUP][HEAD_DIM]     rotated and scaled
//   keys    f16    [K][capacity][HEAD_DIM]      packed in pairs; values likewise
//   out     f32    [states][T][K * GROUP][HEAD_DIM]      state `state` is written; one there is unless PARTIAL
//   md      vec2f  [states][T][K * GROUP]
//
// Rows are the GROUP query heads of every token of one key/value head (y), ROWS of them a workgroup (x, and z where x
// is full), those with most to see first. A tile of keys is HEAD_DIM / 2 wide, so that one grid of lanes, ROWS / 8 by
// HEAD_DIM / 8, holds 8 x 4 scores and 8 x 8 outputs a lane in registers. What the lanes share goes through strips of
// eight vec4f: of queries, eight rows by four channels; of keys, eight channels by four keys; of values, four keys by
// eight channels (four of each half of the head); of weights, eight rows by four keys. The ninth vec4f of a strip keeps
// neighbours in different banks. Tiles that no row sees are skipped. A row that sees nothing, as a mask can have it,
// has m = F32_LOWEST, d = 0; without a mask every row sees the first slot.
//
// MASK: 0 is causal; 1 keeps what is near, the first `sinks` slots and the last `window` up to the token itself; 2 keeps
// the others. The last two need PARTIAL.
#import strips_shared // @param STRIPS strips_shared or strips_told

const ROWS: u32 = 64u;        // @param rows per workgroup, a multiple of 8
const HEAD_DIM: u32 = 128u;   // @param channels per head, a multiple of 8
const GROUP: u32 = 4u;        // @param query heads per key/value head
const SLICE: u32 = 16u;       // @param channels of queries and keys staged at once: a multiple of 8 that divides HEAD_DIM
const HELD: u32 = 16u;        // @param values staged at once: a multiple of 4 that divides HEAD_DIM / 2
const PARTIAL: bool = false;  // @param leave the outputs as they add up
const MASK: u32 = 0u;         // @param what a token sees: 0 all before it, 1 the near of them, 2 the far of them
const KEYS: u32 = HEAD_DIM / 2u;
const RANKS: u32 = ROWS / 8u;    // lanes down the rows
const FILES: u32 = HEAD_DIM / 8u; // lanes across keys and channels
const LANES: u32 = RANKS * FILES;
const Q_STRIDE: u32 = RANKS + 1u;
const K_STRIDE: u32 = FILES + 1u;
const Q_STRIPS: u32 = SLICE / 4u * Q_STRIDE;
const K_STRIPS: u32 = SLICE / 8u * K_STRIDE;
const V_STRIPS: u32 = HELD / 4u * FILES;
const F32_LOWEST: f32 = -3.4028234663852886e38;

struct Params {
    tokens: u32,
    start: u32,    // first slot
    seen: u32,     // slots that the first token sees; each later one sees one more
    state: u32,    // the partial state to write
    capacity: u32,
    window: u32,   // newest slots that are near, the token's own included
    sinks: u32,    // first slots that are near
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4f>;
@group(0) @binding(2) var<storage, read> keys: array<vec4u>;
@group(0) @binding(3) var<storage, read> values: array<vec2u>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> md: array<vec2f>;

alias Strip = array<vec4f, 9>;
var<workgroup> sh_staged: array<Strip, max(Q_STRIPS + K_STRIPS, V_STRIPS)>;
var<workgroup> sh_weights: array<Strip, LANES>; // [RANKS][FILES]

/// Eight rows by four columns.
struct Rows {
    a: vec4f,
    b: vec4f,
    c: vec4f,
    d: vec4f,
    e: vec4f,
    f: vec4f,
    g: vec4f,
    h: vec4f,
}

fn row_madd(sum: vec4f, x: vec4f, a: vec4f, b: vec4f, c: vec4f, d: vec4f) -> vec4f {
    return fma(vec4f(x.w), d, fma(vec4f(x.z), c, fma(vec4f(x.y), b, fma(vec4f(x.x), a, sum))));
}

/// sum + x y, for eight rows of x and the four rows a to d of y
fn rows_madd(sum: Rows, x: Strip, a: vec4f, b: vec4f, c: vec4f, d: vec4f) -> Rows {
    return Rows(
        row_madd(sum.a, x[0], a, b, c, d),
        row_madd(sum.b, x[1], a, b, c, d),
        row_madd(sum.c, x[2], a, b, c, d),
        row_madd(sum.d, x[3], a, b, c, d),
        row_madd(sum.e, x[4], a, b, c, d),
        row_madd(sum.f, x[5], a, b, c, d),
        row_madd(sum.g, x[6], a, b, c, d),
        row_madd(sum.h, x[7], a, b, c, d),
    );
}

/// Row by row, times a factor: rows a to d by those of `upper`, e to h by those of `lower`.
fn rows_scale(x: Rows, upper: vec4f, lower: vec4f) -> Rows {
    return Rows(
        x.a * upper.x, x.b * upper.y, x.c * upper.z, x.d * upper.w,
        x.e * lower.x, x.f * lower.y, x.g * lower.z, x.h * lower.w,
    );
}

/// Which of four keys a row that sees `limit` slots keeps.
fn keeps(key: vec4u, limit: u32) -> vec4<bool> {
    let causal = key < vec4u(limit);
    if MASK == 0u { return causal; }
    let near = (key < vec4u(params.sinks)) | (key + params.window >= vec4u(limit));
    return causal & (near == vec4<bool>(MASK == 1u));
}

/// Whether no row, of which the first sees `least` slots and the last `most`, keeps a key of the tile at `n`.
fn skips(n: u32, least: u32, most: u32) -> bool {
    if MASK == 1u { return n >= params.sinks && n + KEYS + params.window <= least; }
    return MASK == 2u && (n + KEYS <= params.sinks || n + params.window >= most);
}

/// Hides keys that rows do not keep.
fn rows_mask(x: Rows, key: vec4u, upper: vec4u, lower: vec4u) -> Rows {
    let low = vec4f(F32_LOWEST);
    return Rows(
        select(low, x.a, keeps(key, upper.x)), select(low, x.b, keeps(key, upper.y)),
        select(low, x.c, keeps(key, upper.z)), select(low, x.d, keeps(key, upper.w)),
        select(low, x.e, keeps(key, lower.x)), select(low, x.f, keeps(key, lower.y)),
        select(low, x.g, keeps(key, lower.z)), select(low, x.h, keeps(key, lower.w)),
    );
}

fn rows_exp(x: Rows, upper: vec4f, lower: vec4f) -> Rows {
    return Rows(
        exp(x.a - upper.x), exp(x.b - upper.y), exp(x.c - upper.z), exp(x.d - upper.w),
        exp(x.e - lower.x), exp(x.f - lower.y), exp(x.g - lower.z), exp(x.h - lower.w),
    );
}

/// Largest of each of four rows.
fn tops(a: vec4f, b: vec4f, c: vec4f, d: vec4f) -> vec4f {
    let x = max(max(vec4f(a.x, b.x, c.x, d.x), vec4f(a.y, b.y, c.y, d.y)), vec4f(a.z, b.z, c.z, d.z));
    return max(x, vec4f(a.w, b.w, c.w, d.w));
}

/// Sum of each of four rows.
fn sums(a: vec4f, b: vec4f, c: vec4f, d: vec4f) -> vec4f {
    return (vec4f(a.x, b.x, c.x, d.x) + vec4f(a.y, b.y, c.y, d.y)) +
        (vec4f(a.z, b.z, c.z, d.z) + vec4f(a.w, b.w, c.w, d.w));
}

/// Where a workgroup works.
struct Place {
    kv: u32,       // key/value head
    kv_heads: u32,
    rows: u32,     // rows of the head
    row: u32,      // the first of this workgroup
    end: u32,      // slots that its last row sees
}

/// The row of q and out that row `r` of the head is.
fn place_row(place: Place, r: u32) -> u32 {
    let held = min(r, place.rows - 1u); // rows past the last repeat it
    return (held / GROUP * place.kv_heads + place.kv) * GROUP + held % GROUP;
}

/// The row of keys and values that slot `n` of the context is; past the end the last, for others may hold NaN.
fn place_slot(place: Place, n: u32) -> u32 {
    return place.kv * params.capacity + params.start + min(n, place.end - 1u);
}

fn load_q(place: Place, r: u32, quad: u32) -> vec4f {
    return q[place_row(place, r) * (2u * FILES) + quad];
}

fn load_key(place: Place, n: u32, octet: u32) -> vec4u {
    return keys[place_slot(place, n) * FILES + octet];
}

fn load_value(place: Place, n: u32, quad: u32) -> vec4f {
    return unpack4(values[place_slot(place, n) * (2u * FILES) + quad]);
}

fn unpack4(x: vec2u) -> vec4f {
    return vec4f(unpack2x16float(x.x), unpack2x16float(x.y));
}

/// Stages SLICE channels of the workgroup's queries.
fn stage_queries(place: Place, channel: u32, lane: u32) {
    for (var i = lane; i < RANKS * (SLICE / 4u); i += LANES) {
        let quad = i % (SLICE / 4u);
        let rank = i / (SLICE / 4u);
        let r = place.row + 8u * rank;
        let at = channel / 4u + quad;
        sh_staged[quad * Q_STRIDE + rank] = Strip(
            load_q(place, r, at),
            load_q(place, r + 1u, at),
            load_q(place, r + 2u, at),
            load_q(place, r + 3u, at),
            load_q(place, r + 4u, at),
            load_q(place, r + 5u, at),
            load_q(place, r + 6u, at),
            load_q(place, r + 7u, at),
            vec4f(0.0),
        );
    }
}

/// Stages SLICE channels of KEYS keys from slot `n`; starts with the last lane, as queries did with the first.
fn stage_keys(place: Place, n: u32, channel: u32, lane: u32) {
    for (var i = LANES - 1u - lane; i < FILES * (SLICE / 8u); i += LANES) {
        let octet = i % (SLICE / 8u);
        let file = i / (SLICE / 8u);
        let at = channel / 8u + octet;
        let a = load_key(place, n + 4u * file, at);
        let b = load_key(place, n + 4u * file + 1u, at);
        let c = load_key(place, n + 4u * file + 2u, at);
        let d = load_key(place, n + 4u * file + 3u, at);
        let x = transpose(mat4x4f(unpack4(a.xy), unpack4(b.xy), unpack4(c.xy), unpack4(d.xy)));
        let y = transpose(mat4x4f(unpack4(a.zw), unpack4(b.zw), unpack4(c.zw), unpack4(d.zw)));
        sh_staged[Q_STRIPS + octet * K_STRIDE + file] =
            Strip(x[0], x[1], x[2], x[3], y[0], y[1], y[2], y[3], vec4f(0.0));
    }
}

/// Stages HELD values from slot `n`.
fn stage_values(place: Place, n: u32, lane: u32) {
    for (var i = lane; i < V_STRIPS; i += LANES) {
        let file = i % FILES;
        let at = n + 4u * (i / FILES);
        sh_staged[i] = Strip(
            load_value(place, at, file),
            load_value(place, at + 1u, file),
            load_value(place, at + 2u, file),
            load_value(place, at + 3u, file),
            load_value(place, at, FILES + file),
            load_value(place, at + 1u, FILES + file),
            load_value(place, at + 2u, FILES + file),
            load_value(place, at + 3u, FILES + file),
            vec4f(0.0),
        );
    }
}

fn store(place: Place, r: u32, file: u32, low: vec4f, high: vec4f, m: f32, d: f32) {
    if r >= place.rows { return; }
    let to = params.state * place.rows * place.kv_heads + place_row(place, r);
    let norm = select(1.0 / d, 1.0, PARTIAL);
    out[to * (2u * FILES) + file] = low * norm;
    out[to * (2u * FILES) + FILES + file] = high * norm;
    if file == 0u { md[to] = vec2f(m, d); }
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wg: vec3u,
    @builtin(num_workgroups) grid: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let rows = params.tokens * GROUP;
    let tiles = (rows + ROWS - 1u) / ROWS;
    let tile = wg.z * grid.x + wg.x;
    if tile >= tiles { return; }
    let row = (tiles - 1u - tile) * ROWS;
    let place = Place(wg.y, grid.y, rows, row, params.seen + (min(row + ROWS, rows) - 1u) / GROUP);
    let rank = lane / FILES;
    let file = lane % FILES;
    let own = row + 8u * rank;
    let limit_a = params.seen + (own + vec4u(0u, 1u, 2u, 3u)) / GROUP; // slots that each row sees
    let limit_e = params.seen + (own + vec4u(4u, 5u, 6u, 7u)) / GROUP;

    let zero = Rows(vec4f(), vec4f(), vec4f(), vec4f(), vec4f(), vec4f(), vec4f(), vec4f());
    var low = zero;  // outputs of channels 4 file to 4 file + 3
    var high = zero; // and of those half a head on
    var m_a = vec4f(F32_LOWEST); // rows a to d, then e to h
    var m_e = vec4f(F32_LOWEST);
    var d_a = vec4f(0.0); // sums over this lane's keys only
    var d_e = vec4f(0.0);
    let least = params.seen + row / GROUP;
    for (var n = 0u; n < place.end; n += KEYS) {
        if skips(n, least, place.end) { continue; }
        var s = zero;
        for (var channel = 0u; channel < HEAD_DIM; channel += SLICE) {
            workgroupBarrier();
            stage_queries(place, channel, lane);
            stage_keys(place, n, channel, lane);
            workgroupBarrier();
            for (var i = 0u; i < SLICE / 8u; i++) {
                let k = sh_staged[Q_STRIPS + i * K_STRIDE + file];
                s = rows_madd(s, staged_alike(2u * i * Q_STRIDE + rank, lane), k[0], k[1], k[2], k[3]);
                s = rows_madd(s, staged_alike((2u * i + 1u) * Q_STRIDE + rank, lane), k[4], k[5], k[6], k[7]);
            }
        }
        if MASK != 0u || n + KEYS > least { // some row may not see the whole tile
            s = rows_mask(s, n + 4u * file + vec4u(0u, 1u, 2u, 3u), limit_a, limit_e);
        }

        sh_weights[lane][0] = tops(s.a, s.b, s.c, s.d);
        sh_weights[lane][1] = tops(s.e, s.f, s.g, s.h);
        workgroupBarrier();
        var top_a = m_a;
        var top_e = m_e;
        for (var i = rank * FILES; i < (rank + 1u) * FILES; i++) {
            top_a = max(top_a, sh_weights[i][0]);
            top_e = max(top_e, sh_weights[i][1]);
        }
        workgroupBarrier();
        let floor = vec4f(0.5 * F32_LOWEST); // a row that has seen nothing yet weighs nothing
        let w = rows_exp(s, max(top_a, floor), max(top_e, floor));
        sh_weights[lane] = Strip(w.a, w.b, w.c, w.d, w.e, w.f, w.g, w.h, vec4f(0.0));
        let shrink_a = exp(m_a - top_a);
        let shrink_e = exp(m_e - top_e);
        d_a = fma(d_a, shrink_a, sums(w.a, w.b, w.c, w.d));
        d_e = fma(d_e, shrink_e, sums(w.e, w.f, w.g, w.h));
        low = rows_scale(low, shrink_a, shrink_e);
        high = rows_scale(high, shrink_a, shrink_e);
        m_a = top_a;
        m_e = top_e;

        for (var held = 0u; held < min(KEYS, place.end - n); held += HELD) {
            workgroupBarrier();
            stage_values(place, n + held, lane);
            workgroupBarrier();
            for (var i = 0u; i < HELD / 4u; i++) {
                let v = sh_staged[i * FILES + file];
                let p = weights_alike(rank * FILES + held / 4u + i, lane);
                low = rows_madd(low, p, v[0], v[1], v[2], v[3]);
                high = rows_madd(high, p, v[4], v[5], v[6], v[7]);
            }
        }
    }

    workgroupBarrier();
    sh_weights[lane][0] = d_a;
    sh_weights[lane][1] = d_e;
    workgroupBarrier();
    d_a = vec4f(0.0);
    d_e = vec4f(0.0);
    for (var i = rank * FILES; i < (rank + 1u) * FILES; i++) {
        d_a += sh_weights[i][0];
        d_e += sh_weights[i][1];
    }
    store(place, own, file, low.a, high.a, m_a.x, d_a.x);
    store(place, own + 1u, file, low.b, high.b, m_a.y, d_a.y);
    store(place, own + 2u, file, low.c, high.c, m_a.z, d_a.z);
    store(place, own + 3u, file, low.d, high.d, m_a.w, d_a.w);
    store(place, own + 4u, file, low.e, high.e, m_e.x, d_e.x);
    store(place, own + 5u, file, low.f, high.f, m_e.y, d_e.y);
    store(place, own + 6u, file, low.g, high.g, m_e.z, d_e.z);
    store(place, own + 7u, file, low.h, high.h, m_e.w, d_e.w);
}
