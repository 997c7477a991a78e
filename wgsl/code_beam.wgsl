// code_beam: additive coding that keeps the best BEAM ways so far, field after field, in place of the best one.
//
//   error of a way and its next words = error + |w|^2 - 2<x,w>,   for a pair w = u_a + v_b:
//   |u_a|^2 - 2<x,u_a> + |v_b|^2 - 2<x,v_b> + 2<u_a,v_b>          (x: what the way has left)
//
// Before field FIRST what is left is divided by the token's gain, 2^(g/2), from 0 to 15 g = log2(|x|^2 / (UNIT |w|^2)) of
// its best way and the mean of that stage's words: words made for most tokens then serve those too that the first stages
// miss by far more.
//
//   residual  f32    [K][capacity][HEAD_DIM][32]    as code_residual leaves it; what the codes miss is left in it
//   table     u32    [K][rows][PAIRS]               two halves each
//   gram      f32    [K][gram]                      code_gram's of every stage
//   fields    vec4u  [FIELDS]                       row, number of its gram in fours, pair, pairs (0: a pair stage)
//   missed    u32    [K][capacity]                  the tokens to code (code_missed), if FIRST is among the fields; others may stay
//   raw       u32    [K][capacity][32][RAW]         the codes, for code_pack; and last g, if FIRST is among the fields
//
// One workgroup of 64 lanes per TOKENS tokens (x) and head (y). Their 16 ways are the columns of a 4x4 matrix, WAYS / 4
// columns a token; ways past BEAM have a huge error. Lane a finds the least error of its words, in a pair with any v_b,
// for every column. Only the 64 cells (lane, column) of a token whose least is among the BEAM least can have one of the
// BEAM best: all lanes try the pairs of those cells, list the few that do not exceed the limit so found, and rank them.
// On a tie the lower way wins, then the lower code.
#import gain
#import ways_shared // @param WAYS_PART ways_shared or ways_told

const HEAD_DIM: u32 = 128u; // @param channels per head, a multiple of 8
const BEAM: u32 = 4u;       // @param ways that are kept
const WAYS: u32 = 4u;       // @param 4, or 8 for a BEAM above 4
const FIELDS: u32 = 21u;    // @param codes of a token
const FIRST: u32 = 21u;     // @param the first that has a gain; FIELDS for none
const SPAN: u32 = 1u;       // @param fields of its stage
const UNIT: f32 = 1.0;      // @param what the stage is for over its words, in squared length
const RAW: u32 = FIELDS + u32(FIRST < FIELDS);
const PAIRS: u32 = HEAD_DIM / 2u;
const LANES: u32 = 64u;
const TOKENS: u32 = 16u / WAYS;
const COLUMNS: u32 = WAYS / 4u;         // of a token
const SHARE: u32 = LANES / TOKENS;      // lanes that rank a token's
const ROOM: u32 = COLUMNS * LANES;      // cells of a token; and candidates that its list holds
const F32_HIGHEST: f32 = 3.4028234663852886e38;
const F32_TINY: f32 = 1e-30;
const MOST_GAIN: f32 = 15.0;

struct Params {
    tokens: u32,
    capacity: u32,
    rows: u32,
    gram: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> residual: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<vec4u>;
@group(0) @binding(3) var<storage, read> gram: array<f32>;
@group(0) @binding(4) var<storage, read> fields: array<vec4u>;
@group(0) @binding(5) var<storage, read> missed: array<u32>;
@group(0) @binding(6) var<storage, read_write> raw: array<u32>;

/// A pair of what the ways have left. Lanes of neighbouring pairs are in other banks by the pad.
struct Left {
    re: mat4x4f,
    im: mat4x4f,
    pad: vec4f,
}

/// A number for each way, of two words.
struct Two {
    u: mat4x4f,
    v: mat4x4f,
}

var<workgroup> sh_left: array<Left, PAIRS>;
var<workgroup> sh_offset: array<mat4x4f, LANES>;  // of v_b; then errors of the ways with u_a
var<workgroup> sh_errors: array<f32, 4u * LANES>; // of cells; then of candidates
var<workgroup> sh_keys: array<u32, 4u * LANES>;   // of candidates: the way's number times 4096 plus the code
var<workgroup> sh_cells: array<atomic<u32>, 8>;   // a bit for each cell that is tried
var<workgroup> sh_limit: array<atomic<u32>, 4>;   // candidates have an error up to this, `ordered`
var<workgroup> sh_limit_key: array<u32, 4>;       // and at the limit a key up to this
var<workgroup> sh_count: array<atomic<u32>, 4>;   // of candidates
var<workgroup> sh_is_over: u32;                   // whether there are more than a list holds
var<workgroup> sh_error: array<f32, 16>;          // of the best ways, in order, less the token's squared length
var<workgroup> sh_key: array<u32, 16>;
var<workgroup> sh_trace: array<u32, 8u * FIELDS>; // keys in pairs
var<workgroup> sh_gain: array<u32, 4>;            // g of a token

/// Numbers in the order of the floats.
fn ordered(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

fn of_ordered(x: u32) -> f32 {
    return bitcast<f32>(select(~x, x & 0x7fffffffu, x >= 0x80000000u));
}

fn flags(x: vec4<bool>) -> u32 {
    return dot(vec4u(x), vec4u(1u, 2u, 4u, 8u));
}

fn least(x: vec4f) -> f32 {
    return min(min(x.x, x.y), min(x.z, x.w));
}

fn least_of(a: mat4x4f, b: mat4x4f) -> mat4x4f {
    return mat4x4f(min(a[0], b[0]), min(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]));
}

/// x[i] without memory.
fn column_of(x: mat4x4f, i: u32) -> vec4f {
    let is_odd = (i & 1u) == 1u;
    return select(select(x[0], x[1], is_odd), select(x[2], x[3], is_odd), i > 1u);
}

fn plus(x: mat4x4f, y: f32) -> mat4x4f {
    return mat4x4f(x[0] + y, x[1] + y, x[2] + y, x[3] + y);
}

/// A lane's least of each cell.
fn put_cells(errors: mat4x4f, lane: u32) {
    sh_errors[lane] = least(errors[0]);
    sh_errors[LANES + lane] = least(errors[1]);
    sh_errors[2u * LANES + lane] = least(errors[2]);
    sh_errors[3u * LANES + lane] = least(errors[3]);
}

/// Chooses the cells to try, and the limit: the greatest of their least errors. A lane ranks four cells.
fn choose_cells(lane: u32) {
    let at = 4u * lane;
    let own = vec4f(sh_errors[at], sh_errors[at + 1u], sh_errors[at + 2u], sh_errors[at + 3u]);
    let token = lane / SHARE;
    let is_tried = cells_below(own, token * ROOM, lane) < vec4u(BEAM);
    if any(is_tried) {
        atomicOr(&sh_cells[lane >> 3u], flags(is_tried) << (4u * (lane & 7u)));
        atomicMax(&sh_limit[token], ordered(-least(select(vec4f(F32_HIGHEST), -own, is_tried))));
    }
}

/// Lists the ways of a column that do not exceed the limit.
fn offer(column: u32, errors: vec4f, code: u32) {
    let token = column / COLUMNS;
    let limit = of_ordered(atomicLoad(&sh_limit[token]));
    var ways = flags(errors <= vec4f(limit));
    while ways > 0u {
        let way = firstTrailingBit(ways);
        ways &= ways - 1u;
        let is_odd = (way & 1u) == 1u;
        let error = select(select(errors.x, errors.y, is_odd), select(errors.z, errors.w, is_odd), way > 1u);
        let key = ((column % COLUMNS) * 4u + way) * 4096u + code;
        if error < limit || key <= sh_limit_key[token] {
            let i = atomicAdd(&sh_count[token], 1u);
            if i < ROOM {
                sh_errors[token * ROOM + i] = error;
                sh_keys[token * ROOM + i] = key;
            }
        }
    }
}

/// Offers v_b with the words u_a of the cells that are tried. `gram_at` is that of b's products.
fn offer_pairs(offsets: mat4x4f, gram_at: u32, b: u32) {
    for (var i = 0u; i < 8u; i++) {
        let column = i >> 1u;
        let offset = column_of(offsets, column);
        var cells = atomicLoad(&sh_cells[i]);
        while cells > 0u {
            let a = 32u * (i & 1u) + firstTrailingBit(cells);
            cells &= cells - 1u;
            offer(column, sh_offset[a][column] + (offset + gram[gram_at + a]), a * 64u + b);
        }
    }
}

/// Offers the words a, 64 + a, 128 + a and 192 + a of a sub stage.
fn offer_words(low: Two, high: Two, a: u32) {
    for (var i = 0u; i < 16u; i++) {
        let column = i >> 2u;
        let is_odd = (i & 1u) == 1u;
        let l = select(column_of(low.u, column), column_of(low.v, column), is_odd);
        let h = select(column_of(high.u, column), column_of(high.v, column), is_odd);
        offer(column, select(l, h, (i & 2u) == 2u), a + 64u * (i & 3u));
    }
}

/// Ranks the candidates: the best go to sh_error and sh_key.
fn rank_candidates(lane: u32) {
    let token = lane / SHARE;
    let begin = token * ROOM;
    let end = begin + min(atomicLoad(&sh_count[token]), ROOM);
    for (var at = begin + lane % SHARE; at < end; at += SHARE) {
        let error = sh_errors[at];
        let key = sh_keys[at];
        var to = token * WAYS;
        for (var i = begin; i < end; i++) {
            let other = sh_errors[i];
            to += u32(other < error || (other == error && sh_keys[i] < key));
        }
        if to < token * WAYS + BEAM {
            sh_error[to] = error;
            sh_key[to] = key;
        }
    }
}

fn part(row: u32, d: u32) -> vec2f {
    return unpack2x16float(table[(row * PAIRS + d) >> 2u][d & 3u]);
}

/// Pair d of what one of the new ways has left.
fn rest(field: vec4u, row: u32, to: u32, d: u32) -> vec2f {
    let key = sh_key[to];
    let code = key & 4095u;
    let from_at = (to & ~(WAYS - 1u)) + (key >> 12u);
    let x = vec2f(sh_left[d].re[from_at >> 2u][from_at & 3u], sh_left[d].im[from_at >> 2u][from_at & 3u]);
    if field.w == 0u { return x - (part(row + (code >> 6u), d) + part(row + 64u + (code & 63u), d)); }
    if d >= field.z && d < field.z + field.w { return x - part(row + code, d); }
    return x;
}

/// And of a column's four.
fn rests(field: vec4u, row: u32, column: u32, d: u32) -> mat4x2f {
    let to = 4u * column;
    return mat4x2f(
        rest(field, row, to, d),
        rest(field, row, to + 1u, d),
        rest(field, row, to + 2u, d),
        rest(field, row, to + 3u, d),
    );
}

fn best_errors(column: u32) -> vec4f {
    let at = 4u * column;
    return vec4f(sh_error[at], sh_error[at + 1u], sh_error[at + 2u], sh_error[at + 3u]);
}

fn put_left(column: u32, d: u32, x: mat2x4f) {
    sh_left[d].re[column] = x[0];
    sh_left[d].im[column] = x[1];
}

fn column_gain(column: u32) -> f32 {
    return gain_of(sh_gain[column / COLUMNS]);
}

/// A lane's part of the mean squared length of words of the stage that begins with FIRST.
fn part_of_mean(head: u32, lane: u32) -> f32 {
    var sum = 0.0;
    for (var f = FIRST; f < FIRST + SPAN; f++) {
        let at = head * params.gram + fields[f].y * 4u + lane;
        if fields[f].w == 0u {
            sum += (gram[at] + gram[at + 64u]) / 64.0;
            for (var b = 0u; b < 64u; b++) { sum += gram[at + 128u + 64u * b] / 4096.0; }
        } else {
            sum += ((gram[at] + gram[at + 64u]) + (gram[at + 128u] + gram[at + 192u])) / 256.0;
        }
    }
    return sum;
}

/// Finds each token's gain, divides what its ways have left by it, and returns their errors so divided.
fn take_gains(head: u32, errors: mat4x4f, lane: u32) -> mat4x4f {
    let token = lane / SHARE;
    var sum = 0.0;
    workgroupBarrier(); // sh_left is written; sh_errors is read
    for (var d = lane % SHARE; d < PAIRS; d += SHARE) {
        let re = sh_left[d].re[token * COLUMNS].x;
        let im = sh_left[d].im[token * COLUMNS].x;
        sum += re * re + im * im;
    }
    sh_errors[lane] = sum;
    sh_errors[LANES + lane] = part_of_mean(head, lane);
    workgroupBarrier();
    if lane < TOKENS {
        var energy = 0.0;
        for (var i = 0u; i < SHARE; i++) { energy += sh_errors[lane * SHARE + i]; }
        var mean = 0.0;
        for (var i = LANES; i < 2u * LANES; i++) { mean += sh_errors[i]; }
        let ratio = max(energy, F32_TINY) / max(UNIT * mean, F32_TINY);
        sh_gain[lane] = u32(clamp(round(log2(ratio)), 0.0, MOST_GAIN));
    }
    workgroupBarrier();
    let scale = 1.0 / vec4f(column_gain(0u), column_gain(1u), column_gain(2u), column_gain(3u));
    for (var d = lane; d < PAIRS; d += LANES) {
        let left = sh_left[d];
        put_left(0u, d, mat2x4f(left.re[0], left.im[0]) * scale[0]);
        put_left(1u, d, mat2x4f(left.re[1], left.im[1]) * scale[1]);
        put_left(2u, d, mat2x4f(left.re[2], left.im[2]) * scale[2]);
        put_left(3u, d, mat2x4f(left.re[3], left.im[3]) * scale[3]);
    }
    let squares = scale * scale;
    return mat4x4f(errors[0] * squares[0], errors[1] * squares[1], errors[2] * squares[2], errors[3] * squares[3]);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let head = wg.y;
    let first = wg.x * TOKENS;
    if FIRST < FIELDS {
        let block = missed[head * params.capacity + (first >> 5u)];
        if ((block >> (first & 31u)) & ((1u << TOKENS) - 1u)) == 0u { return; }
    }
    let tile = (head * params.capacity + (first >> 5u)) * HEAD_DIM * 32u + (first & 31u);
    for (var i = lane; i < 4u * PAIRS; i += LANES) { // all ways of a token begin alike
        let at = tile + (i / PAIRS) / COLUMNS + (i % PAIRS) * 64u;
        put_left(i / PAIRS, i % PAIRS, mat2x4f(vec4f(residual[at]), vec4f(residual[at + 32u])));
    }
    let none = vec4f(F32_HIGHEST);
    let one = vec4f(0.0, none.yzw); // of which there is but one yet
    var errors = mat4x4f(one, select(one, none, COLUMNS == 2u), one, select(one, none, COLUMNS == 2u));
    for (var f = 0u; f < FIELDS; f++) {
        if f == FIRST { errors = take_gains(head, errors, lane); }
        let field = fields[f];
        let row = head * params.rows + field.x;
        let gram_at = head * params.gram + field.y * 4u;
        let is_pair = field.w == 0u;
        if lane < 4u {
            atomicStore(&sh_limit[lane], 0u);
            sh_limit_key[lane] = ~0u;
            atomicStore(&sh_count[lane], 0u);
        }
        if lane < 8u { atomicStore(&sh_cells[lane], 0u); }
        workgroupBarrier(); // sh_left is written; sh_error and sh_key are read
        if lane < 16u {
            sh_error[lane] = F32_HIGHEST;
            sh_key[lane] = 0u;
        }
        var high: Two; // offsets of u_a and v_b, or of words 128 + a and 192 + a
        var low: Two;  // of words a and 64 + a
        for (var word = lane; word < select(256u, 64u, is_pair); word += 128u) {
            low = high;
            high = offsets(row + word, field.z, select(field.w, PAIRS, is_pair), gram_at + word, lane);
        }
        if is_pair {
            sh_offset[lane] = high.v;
            workgroupBarrier();
            let nearest = nearest_of(gram_at + 128u + lane, lane);
            workgroupBarrier();
            let own = errors + high.u;
            sh_offset[lane] = own;
            put_cells(own + nearest, lane);
        } else {
            low = Two(errors + low.u, errors + low.v);
            high = Two(errors + high.u, errors + high.v);
            put_cells(least_of(least_of(low.u, low.v), least_of(high.u, high.v)), lane);
        }
        workgroupBarrier();
        choose_cells(lane);
        workgroupBarrier();
        loop {
            if is_pair {
                offer_pairs(high.v, gram_at + 128u + lane * 64u, lane);
            } else {
                offer_words(low, high, lane);
            }
            workgroupBarrier();
            rank_candidates(lane);
            if lane == 0u {
                let low_most = max(atomicLoad(&sh_count[0]), atomicLoad(&sh_count[1]));
                sh_is_over = u32(max(low_most, max(atomicLoad(&sh_count[2]), atomicLoad(&sh_count[3]))) > ROOM);
            }
            if workgroupUniformLoad(&sh_is_over) == 0u { break; }
            if lane < TOKENS { // some were not listed: those before the last of the best that were
                let last = lane * WAYS + BEAM - 1u;
                atomicStore(&sh_limit[lane], ordered(sh_error[last]));
                sh_limit_key[lane] = sh_key[last];
                atomicStore(&sh_count[lane], 0u);
            }
            workgroupBarrier();
        }
        for (var i = lane; i < TOKENS * PAIRS; i += LANES) {
            let column = (i / PAIRS) * COLUMNS;
            let d = i % PAIRS;
            let x = transpose(rests(field, row, column, d));
            if COLUMNS == 2u { put_left(column + 1u, d, transpose(rests(field, row, column + 1u, d))); }
            put_left(column, d, x);
        }
        if lane < 8u { sh_trace[8u * f + lane] = sh_key[2u * lane] | (sh_key[2u * lane + 1u] << 16u); }
        errors = mat4x4f(best_errors(0u), best_errors(1u), best_errors(2u), best_errors(3u));
    }
    workgroupBarrier();
    for (var i = lane; i < TOKENS * PAIRS; i += LANES) {
        let token = i / PAIRS;
        let d = i % PAIRS;
        var gain = 1.0;
        if FIRST < FIELDS { gain = gain_of(sh_gain[token]); }
        if first + token < params.tokens {
            residual[tile + token + d * 64u] = sh_left[d].re[token * COLUMNS].x * gain;
            residual[tile + token + d * 64u + 32u] = sh_left[d].im[token * COLUMNS].x * gain;
        }
    }
    if lane < TOKENS && first + lane < params.tokens {
        let to = (head * params.capacity * 32u + first + lane) * RAW;
        if FIRST < FIELDS { raw[to + FIELDS] = sh_gain[lane]; }
        var way = lane * WAYS;
        for (var f = FIELDS; f > 0u; f--) {
            let key = (sh_trace[8u * (f - 1u) + (way >> 1u)] >> (16u * (way & 1u))) & 0xffffu;
            raw[to + f - 1u] = key & 4095u;
            way = lane * WAYS + (key >> 12u);
        }
    }
}
