// The words of one stage nearest to each of a block's 32 residuals: the exact argmin, by the separable form
//
//   |x - u_a - v_b|^2 = |x|^2 + alpha_a + beta_b + G_ab,   alpha_a = |u_a|^2 - 2<x,u_a>, beta_b likewise,
//   G_ab = 2<u_a,v_b>                                       (commvq.md 2.2: no codebook of 4096, no distances in memory)
//
//   residual  f32  [..][HEAD_DIM][32]   component 2d is pair d's real part, 2d + 1 its imaginary part
//   table     u32  [rows][PAIRS]        two halves each
//   gram      f32  a pair stage: |u|^2 [64], |v|^2 [64], G [b][a]; a sub stage: |w|^2 [groups][256] (code_gram.wgsl)
//
// The importing kernel declares HEAD_DIM and these bindings as arrays of vec4f, vec4u and vec4f; `tile_at` and
// `gram_at` count those. It has 64 lanes: lane 4s + q has tokens 4q.. and 16 + 4q.. and of each half words 4s.. .
// Results are in sh_code from the barrier that ends each search on.
#import pack_codes

const PAIRS: u32 = HEAD_DIM / 2u;
const LANES: u32 = 64u;
const F32_HIGHEST: f32 = 3.4028234663852886e38;

var<workgroup> sh_tile: array<vec4f, 512>; // beta [64 b][32 tokens]; or one sum a lane
var<workgroup> sh_best: array<vec2f, 512>; // [16 slots][32 tokens]: least value, its word

/// Four pairs of four words: column i is pair i, one entry a word.
struct Words {
    re: mat4x4f,
    im: mat4x4f,
}

fn words(rows: vec4u, pair: u32) -> Words {
    let a = table[(rows.x * PAIRS + pair) >> 2u];
    let b = table[(rows.y * PAIRS + pair) >> 2u];
    let c = table[(rows.z * PAIRS + pair) >> 2u];
    let d = table[(rows.w * PAIRS + pair) >> 2u];
    let x = turned(a.x, b.x, c.x, d.x);
    let y = turned(a.y, b.y, c.y, d.y);
    let z = turned(a.z, b.z, c.z, d.z);
    let w = turned(a.w, b.w, c.w, d.w);
    return Words(mat4x4f(x[0], y[0], z[0], w[0]), mat4x4f(x[1], y[1], z[1], w[1]));
}

fn turned(a: u32, b: u32, c: u32, d: u32) -> mat2x4f {
    let x = unpack2x16float(a);
    let y = unpack2x16float(b);
    let z = unpack2x16float(c);
    let w = unpack2x16float(d);
    return mat2x4f(x.x, y.x, z.x, w.x, x.y, y.y, z.y, w.y);
}

/// Inner products of a lane's residuals with its words of two halves: column j is word j, one entry a token.
struct Products {
    u_low: mat4x4f,
    u_high: mat4x4f,
    v_low: mat4x4f,
    v_high: mat4x4f,
}

fn outer(x: vec4f, w: vec4f) -> mat4x4f {
    return mat4x4f(x * w.x, x * w.y, x * w.z, x * w.w);
}

fn add_component(p: ptr<function, Products>, at: u32, u: vec4f, v: vec4f) {
    let low = residual[at];
    let high = residual[at + 4u];
    (*p).u_low += outer(low, u);
    (*p).u_high += outer(high, u);
    (*p).v_low += outer(low, v);
    (*p).v_high += outer(high, v);
}

/// Products over pairs [pair, pair + pairs), a multiple of 4, with words from rows `u_row` and `v_row` on.
fn products(tile_at: u32, u_row: u32, v_row: u32, pair: u32, pairs: u32, lane: u32) -> Products {
    let four = vec4u(0u, 1u, 2u, 3u) + 4u * (lane >> 2u);
    var p: Products;
    for (var d = pair; d < pair + pairs; d += 4u) {
        let at = tile_at + d * 16u + (lane & 3u);
        let u = words(u_row + four, d);
        let v = words(v_row + four, d);
        add_component(&p, at, u.re[0], v.re[0]);
        add_component(&p, at + 8u, u.im[0], v.im[0]);
        add_component(&p, at + 16u, u.re[1], v.re[1]);
        add_component(&p, at + 24u, u.im[1], v.im[1]);
        add_component(&p, at + 32u, u.re[2], v.re[2]);
        add_component(&p, at + 40u, u.im[2], v.im[2]);
        add_component(&p, at + 48u, u.re[3], v.re[3]);
        add_component(&p, at + 56u, u.im[3], v.im[3]);
    }
    return p;
}

/// |w|^2 - 2<x,w> of four words: column j is word j, one entry a token.
fn offsets(norms: vec4f, p: mat4x4f) -> mat4x4f {
    return mat4x4f(vec4f(norms.x), vec4f(norms.y), vec4f(norms.z), vec4f(norms.w)) - 2.0 * p;
}

/// The least value so far of four tokens, and its word.
struct Best {
    value: vec4f,
    word: vec4u,
}

fn better(best: Best, value: vec4f, word: u32) -> Best {
    let less = value < best.value;
    return Best(select(best.value, value, less), select(best.word, vec4u(word), less));
}

fn better4(best: Best, values: mat4x4f, word: u32) -> Best {
    let two = better(better(best, values[0], word), values[1], word + 1u);
    return better(better(two, values[2], word + 2u), values[3], word + 3u);
}

fn put_best(low: Best, high: Best, lane: u32) {
    let at = (lane >> 2u) * 32u + 4u * (lane & 3u);
    sh_best[at] = vec2f(low.value.x, f32(low.word.x));
    sh_best[at + 1u] = vec2f(low.value.y, f32(low.word.y));
    sh_best[at + 2u] = vec2f(low.value.z, f32(low.word.z));
    sh_best[at + 3u] = vec2f(low.value.w, f32(low.word.w));
    sh_best[at + 16u] = vec2f(high.value.x, f32(high.word.x));
    sh_best[at + 17u] = vec2f(high.value.y, f32(high.word.y));
    sh_best[at + 18u] = vec2f(high.value.z, f32(high.word.z));
    sh_best[at + 19u] = vec2f(high.value.w, f32(high.word.w));
}

/// The least of token t's 16 slots, the lower word on a tie.
fn least_slot(t: u32) -> u32 {
    var best = sh_best[t];
    for (var slot = 1u; slot < 16u; slot++) {
        let other = sh_best[slot * 32u + t];
        if other.x < best.x || (other.x == best.x && other.y < best.y) { best = other; }
    }
    return u32(best.y);
}

/// A pair stage: sh_code[t] = 64 a + b.
fn nearest_pair(tile_at: u32, row: u32, gram_at: u32, lane: u32) {
    let q = lane & 3u;
    let s = lane >> 2u;
    let p = products(tile_at, row, row + 64u, 0u, PAIRS, lane);
    let beta_low = offsets(gram[gram_at + 16u + s], p.v_low);
    let beta_high = offsets(gram[gram_at + 16u + s], p.v_high);
    workgroupBarrier(); // the previous search may still be reading
    let to = s * 32u + q;
    sh_tile[to] = beta_low[0];
    sh_tile[to + 4u] = beta_high[0];
    sh_tile[to + 8u] = beta_low[1];
    sh_tile[to + 12u] = beta_high[1];
    sh_tile[to + 16u] = beta_low[2];
    sh_tile[to + 20u] = beta_high[2];
    sh_tile[to + 24u] = beta_low[3];
    sh_tile[to + 28u] = beta_high[3];
    workgroupBarrier();

    let most = vec4f(F32_HIGHEST);
    var low = mat4x4f(most, most, most, most); // min over b of beta_b + G_ab: column j is a = 4s + j
    var high = low;
    for (var b = 0u; b < 64u; b++) {
        let g = gram[gram_at + 32u + b * 16u + s];
        let x = sh_tile[b * 8u + q];
        let y = sh_tile[b * 8u + 4u + q];
        low[0] = min(low[0], x + g.x);
        low[1] = min(low[1], x + g.y);
        low[2] = min(low[2], x + g.z);
        low[3] = min(low[3], x + g.w);
        high[0] = min(high[0], y + g.x);
        high[1] = min(high[1], y + g.y);
        high[2] = min(high[2], y + g.z);
        high[3] = min(high[3], y + g.w);
    }
    let none = Best(most, vec4u(4u * s));
    let norms = gram[gram_at + s];
    put_best(better4(none, offsets(norms, p.u_low) + low, 4u * s), better4(none, offsets(norms, p.u_high) + high, 4u * s), lane);
    workgroupBarrier();

    // a is known: two lanes a token look for its b
    let t = lane & 31u;
    let a = least_slot(t);
    var least = F32_HIGHEST;
    var b_least = 0u;
    for (var b = (lane >> 5u) * 32u; b < (lane >> 5u) * 32u + 32u; b++) {
        let value = sh_tile[b * 8u + (t >> 2u)][t & 3u] + gram[gram_at + 32u + b * 16u + (a >> 2u)][a & 3u];
        if value < least {
            least = value;
            b_least = b;
        }
    }
    workgroupBarrier();
    sh_best[lane] = vec2f(least, f32(b_least));
    workgroupBarrier();
    if lane < 32u {
        if sh_best[32u + t].x < least { b_least = u32(sh_best[32u + t].y); }
        sh_code[t] = 64u * a + b_least;
    }
    workgroupBarrier();
}

/// One group of a sub stage: sh_code[t] = the word of 256.
fn nearest_word(tile_at: u32, row: u32, gram_at: u32, pair: u32, pairs: u32, lane: u32) {
    let s = lane >> 2u;
    var low = Best(vec4f(F32_HIGHEST), vec4u(4u * s));
    var high = low;
    for (var word = 0u; word < 256u; word += 128u) {
        let p = products(tile_at, row + word, row + word + 64u, pair, pairs, lane);
        let u = gram[gram_at + (word >> 2u) + s];
        let v = gram[gram_at + (word >> 2u) + 16u + s];
        low = better4(better4(low, offsets(u, p.u_low), word + 4u * s), offsets(v, p.v_low), word + 64u + 4u * s);
        high = better4(better4(high, offsets(u, p.u_high), word + 4u * s), offsets(v, p.v_high), word + 64u + 4u * s);
    }
    workgroupBarrier(); // the previous search may still be reading
    put_best(low, high, lane);
    workgroupBarrier();
    if lane < 32u { sh_code[lane] = least_slot(lane); }
    workgroupBarrier();
}

/// Four residuals less their words: pair i's parts, one entry a token.
fn rest(x: vec4f, w: vec4f, at: u32, keep: bool) -> vec4f {
    let r = x - w;
    if keep { residual[at] = r; }
    return r * r;
}

/// Squared length of each token's residual less the words that sh_code names, over pairs [pair, pair + pairs): four
/// tokens' sums in each lane, of which lanes with equal `lane & 7` hold parts. With `keep`, the residual is replaced.
fn subtract(tile_at: u32, row: u32, is_pair: bool, pair: u32, pairs: u32, keep: bool, lane: u32) -> vec4f {
    let quad = lane & 7u;
    let code = vec4u(sh_code[4u * quad], sh_code[4u * quad + 1u], sh_code[4u * quad + 2u], sh_code[4u * quad + 3u]);
    var sum = vec4f(0.0);
    for (var d = pair + 4u * (lane >> 3u); d < pair + pairs; d += 32u) {
        var w = words(row + select(code, code >> vec4u(6u), is_pair), d);
        if is_pair {
            let v = words(row + 64u + (code & vec4u(63u)), d);
            w.re += v.re;
            w.im += v.im;
        }
        let at = tile_at + d * 16u + quad;
        sum += rest(residual[at], w.re[0], at, keep) + rest(residual[at + 8u], w.im[0], at + 8u, keep);
        sum += rest(residual[at + 16u], w.re[1], at + 16u, keep) + rest(residual[at + 24u], w.im[1], at + 24u, keep);
        sum += rest(residual[at + 32u], w.re[2], at + 32u, keep) + rest(residual[at + 40u], w.im[2], at + 40u, keep);
        sum += rest(residual[at + 48u], w.re[3], at + 48u, keep) + rest(residual[at + 56u], w.im[3], at + 56u, keep);
    }
    return sum;
}
