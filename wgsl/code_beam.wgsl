// code_beam: additive coding that keeps the best BEAM ways so far, field after field, in place of the best one.
//
//   error of a way and its next words = error + |w|^2 - 2<x,w>,   for a pair w = u_a + v_b:
//   |u_a|^2 - 2<x,u_a> + |v_b|^2 - 2<x,v_b> + 2<u_a,v_b>          (x: what the way has left)
//
//   residual  f32    [K][capacity][HEAD_DIM][32]    as code_residual leaves it; what the codes miss is left in it
//   table     u32    [K][rows][PAIRS]               two halves each
//   gram      f32    [K][gram]                      code_gram's of every stage
//   fields    vec4u  [FIELDS]                       row, number of its gram in fours, pair, pairs (0: a pair stage)
//   raw       u32    [K][capacity][32][FIELDS]      the codes, for code_pack
//
// One workgroup of 64 lanes per token (x) and head (y). Lane a tries the ways with word a, every v for a pair, or words
// a, a + 64, .. for a sub stage; the lanes' best are merged in a tree. On a tie the lower way wins, then the lower code.
const HEAD_DIM: u32 = 128u; // @param channels per head, a multiple of 8
const BEAM: u32 = 4u;       // @param ways that are kept
const FIELDS: u32 = 21u;    // @param codes of a token
const PAIRS: u32 = HEAD_DIM / 2u;
const LANES: u32 = 64u;
const F32_HIGHEST: f32 = 3.4028234663852886e38;

struct Params {
    capacity: u32,
    rows: u32,
    gram: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> residual: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<vec4u>;
@group(0) @binding(3) var<storage, read> gram: array<f32>;
@group(0) @binding(4) var<storage, read> fields: array<vec4u>;
@group(0) @binding(5) var<storage, read_write> raw: array<u32>;

/// An extended way: its error, and the way's number times 4096 plus the code.
struct Way {
    error: f32,
    key: u32,
}

var<workgroup> sh_left: array<vec2f, 2u * BEAM * PAIRS>; // what each way has left, and room for the next field's
var<workgroup> sh_beta: array<f32, BEAM * LANES>;
var<workgroup> sh_best: array<Way, LANES * BEAM>;
var<workgroup> sh_least: array<f32, LANES>;
var<workgroup> sh_limit: f32;
var<workgroup> sh_trace: array<u32, FIELDS * BEAM>;
var<private> best: array<Way, BEAM>; // in order

fn offer(way: Way) {
    var out = way;
    for (var i = 0u; i < BEAM; i++) {
        let other = best[i];
        let is_less = out.error < other.error || (out.error == other.error && out.key < other.key);
        best[i] = Way(select(other.error, out.error, is_less), select(other.key, out.key, is_less));
        out = Way(select(out.error, other.error, is_less), select(out.key, other.key, is_less));
    }
}

/// An error that the BEAM best do not exceed: the lanes' least errors' BEAM-th. Few others are as small.
fn beam_limit(least: f32, lane: u32) -> f32 {
    sh_least[lane] = least;
    workgroupBarrier();
    var rank = 0u;
    for (var i = 0u; i < LANES; i++) {
        let other = sh_least[i];
        rank += u32(other < least || (other == least && i < lane));
    }
    if rank == BEAM - 1u { sh_limit = least; }
    workgroupBarrier();
    return sh_limit;
}

/// <x,w> of every way with the word in row `row`, over pairs [pair, pair + pairs).
fn inner(row: u32, pair: u32, pairs: u32, from_at: u32) -> array<f32, BEAM> {
    var sums: array<f32, BEAM>;
    for (var d = pair; d < pair + pairs; d += 4u) {
        let word = table[(row * PAIRS + d) >> 2u];
        let w0 = unpack2x16float(word.x);
        let w1 = unpack2x16float(word.y);
        let w2 = unpack2x16float(word.z);
        let w3 = unpack2x16float(word.w);
        for (var i = 0u; i < BEAM; i++) {
            let at = from_at + i * PAIRS + d;
            sums[i] += dot(sh_left[at], w0) + dot(sh_left[at + 1u], w1) + dot(sh_left[at + 2u], w2) + dot(sh_left[at + 3u], w3);
        }
    }
    return sums;
}

fn part(row: u32, d: u32) -> vec2f {
    return unpack2x16float(table[(row * PAIRS + d) >> 2u][d & 3u]);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let head = wg.y;
    let tile = (head * params.capacity + (wg.x >> 5u)) * HEAD_DIM * 32u + (wg.x & 31u);
    for (var d = lane; d < PAIRS; d += LANES) { sh_left[d] = vec2f(residual[tile + d * 64u], residual[tile + d * 64u + 32u]); }
    var errors: array<f32, BEAM>; // less the token's squared length
    for (var i = 1u; i < BEAM; i++) { errors[i] = F32_HIGHEST; } // there is one way yet
    var from_at = 0u; // in sh_left
    for (var f = 0u; f < FIELDS; f++) {
        let field = fields[f];
        let row = head * params.rows + field.x;
        let gram_at = head * params.gram + field.y * 4u;
        let is_pair = field.w == 0u;
        workgroupBarrier(); // sh_left is written; sh_beta and sh_best are read
        for (var i = 0u; i < BEAM; i++) { best[i] = Way(F32_HIGHEST, 0u); }
        if is_pair {
            let u = inner(row + lane, 0u, PAIRS, from_at);
            let v = inner(row + 64u + lane, 0u, PAIRS, from_at);
            for (var i = 0u; i < BEAM; i++) { sh_beta[i * LANES + lane] = gram[gram_at + 64u + lane] - 2.0 * v[i]; }
            workgroupBarrier();
            var own: array<f32, BEAM>;
            for (var i = 0u; i < BEAM; i++) { own[i] = errors[i] + gram[gram_at + lane] - 2.0 * u[i]; }
            var least = F32_HIGHEST;
            for (var b = 0u; b < 64u; b++) {
                let g = gram[gram_at + 128u + b * 64u + lane];
                for (var i = 0u; i < BEAM; i++) { least = min(least, own[i] + sh_beta[i * LANES + b] + g); }
            }
            let limit = beam_limit(least, lane);
            for (var b = 0u; b < 64u; b++) {
                let g = gram[gram_at + 128u + b * 64u + lane];
                for (var i = 0u; i < BEAM; i++) {
                    let error = own[i] + sh_beta[i * LANES + b] + g;
                    if error <= limit { offer(Way(error, i * 4096u + lane * 64u + b)); }
                }
            }
        } else {
            for (var word = lane; word < 256u; word += LANES) {
                let w = inner(row + word, field.z, field.w, from_at);
                for (var i = 0u; i < BEAM; i++) { offer(Way(errors[i] + gram[gram_at + word] - 2.0 * w[i], i * 4096u + word)); }
            }
        }
        for (var stride = LANES / 2u; stride > 0u; stride >>= 1u) {
            for (var i = 0u; i < BEAM; i++) { sh_best[lane * BEAM + i] = best[i]; }
            workgroupBarrier();
            if lane < stride {
                for (var i = 0u; i < BEAM; i++) { offer(sh_best[(lane + stride) * BEAM + i]); }
            }
            workgroupBarrier();
        }
        if lane == 0u {
            for (var i = 0u; i < BEAM; i++) {
                sh_best[i] = best[i];
                sh_trace[f * BEAM + i] = best[i].key;
            }
        }
        workgroupBarrier();
        let to_at = BEAM * PAIRS - from_at;
        for (var i = lane; i < BEAM * PAIRS; i += LANES) {
            let key = sh_best[i / PAIRS].key;
            let d = i % PAIRS;
            let code = key & 4095u;
            var x = sh_left[from_at + (key >> 12u) * PAIRS + d];
            if is_pair {
                x -= part(row + (code >> 6u), d) + part(row + 64u + (code & 63u), d);
            } else if d >= field.z && d < field.z + field.w {
                x -= part(row + code, d);
            }
            sh_left[to_at + i] = x;
        }
        for (var i = 0u; i < BEAM; i++) { errors[i] = sh_best[i].error; }
        from_at = to_at;
    }
    workgroupBarrier();
    for (var d = lane; d < PAIRS; d += LANES) {
        residual[tile + d * 64u] = sh_left[from_at + d].x;
        residual[tile + d * 64u + 32u] = sh_left[from_at + d].y;
    }
    if lane == 0u {
        var way = 0u;
        for (var f = FIELDS; f > 0u; f--) {
            let key = sh_trace[(f - 1u) * BEAM + way];
            raw[(head * params.capacity * 32u + wg.x) * FIELDS + f - 1u] = key & 4095u;
            way = key >> 12u;
        }
    }
}
