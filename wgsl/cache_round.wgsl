// cache_round: what published codecs leave of the keys or values of an exact cache, as a copy of it.
//
//   from, to   f16  [KV_HEADS][capacity][HEAD_DIM], packed in pairs
//
// CODEC 0, llama.cpp's q8_0:  32 channels,  d = half(amax / 127),  d * round(x / d)
// CODEC 1, llama.cpp's q4_0:  32 channels,  d = half(v / -8), v of largest size,  d * (min(15, floor(x / d + 8.5)) - 8)
// CODEC 2, a range:           32 channels,  z = half(min), s = half((max - min) / (LEVELS - 1)),  s * round((x - z) / s) + z
// CODEC 3, a range:           32 tokens of a channel; an incomplete last group is copied
// CODEC 4, Lloyd-Max:         a head's channels over their norm (f16), random signs and Hadamard before and after
//
// A lane takes a head of a token or, with CODEC 3, a pair of channels of 32 tokens; heads lie along y. HADAMARD rotates
// a head before CODEC 0 or 1, and back after. Halves are rounded to even.

const WG: u32 = 64u;           // @param lanes per workgroup
const HEAD_DIM: u32 = 128u;    // @param channels per head, a multiple of 32; with a rotation a power of two
const CODEC: u32 = 0u;         // @param see above
const LEVELS: u32 = 4u;        // @param of a range; 2 or 4 with Lloyd-Max
const HADAMARD: bool = false;  // @param rotate heads around CODEC 0 or 1
const SEED: u32 = 0u;          // @param of the signs
const GROUP: u32 = 32u;
const WORDS: u32 = HEAD_DIM / 2u;
const HELD: u32 = max(HEAD_DIM, 2u * GROUP);

struct Params {
    tokens: u32,
    capacity: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> source: array<u32>;
@group(0) @binding(2) var<storage, read_write> rounded: array<u32>;

alias Numbers = array<f32, HELD>;

/// To half precision, ties to even. Written out, since one driver takes unpacking what was packed for the number itself.
fn half(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    let normal = bitcast<f32>((bits + 0xfffu + ((bits >> 13u) & 1u)) & 0xffffe000u);
    let small = (abs(x) + 0.5) - 0.5; // below 2^-14 in steps of 2^-24
    return select(normal, select(small, -small, x < 0.0), abs(x) < 6.103515625e-5);
}

fn inverse(x: f32) -> f32 {
    return select(0.0, 1.0 / x, x != 0.0);
}

fn round_q8(x: ptr<function, Numbers>, at: u32) {
    var most = 0.0;
    for (var i = at; i < at + GROUP; i++) { most = max(most, abs((*x)[i])); }
    let scale = most / 127.0;
    for (var i = at; i < at + GROUP; i++) { (*x)[i] = half(scale) * round((*x)[i] * inverse(scale)); }
}

fn round_q4(x: ptr<function, Numbers>, at: u32) {
    var most = 0.0;
    for (var i = at; i < at + GROUP; i++) {
        if abs((*x)[i]) > abs(most) { most = (*x)[i]; }
    }
    let scale = most / -8.0;
    for (var i = at; i < at + GROUP; i++) {
        (*x)[i] = half(scale) * (min(15.0, floor((*x)[i] * inverse(scale) + 8.5)) - 8.0);
    }
}

fn round_range(x: ptr<function, Numbers>, at: u32) {
    var least = (*x)[at];
    var most = least;
    for (var i = at; i < at + GROUP; i++) {
        least = min(least, (*x)[i]);
        most = max(most, (*x)[i]);
    }
    let last = f32(LEVELS - 1u);
    let zero = half(least);
    let scale = half((most - least) / last);
    for (var i = at; i < at + GROUP; i++) {
        (*x)[i] = scale * clamp(round(((*x)[i] - zero) * inverse(scale)), 0.0, last) + zero;
    }
}

fn rotate(x: ptr<function, Numbers>) {
    for (var width = 1u; width < HEAD_DIM; width *= 2u) {
        for (var j = 0u; j < HEAD_DIM / 2u; j++) {
            let i = 2u * j - j % width;
            let a = (*x)[i];
            let b = (*x)[i + width];
            (*x)[i] = a + b;
            (*x)[i + width] = a - b;
        }
    }
    for (var i = 0u; i < HEAD_DIM; i++) { (*x)[i] = (*x)[i] * inverseSqrt(f32(HEAD_DIM)); }
}

/// The top bit of core/rng.ts's number `i`.
fn sign(i: u32) -> f32 {
    var x = SEED + (i + 1u) * 0x9e3779b9u;
    x = (x ^ (x >> 16u)) * 0x21f0aaadu;
    x = (x ^ (x >> 15u)) * 0x735a2d97u;
    x = x ^ (x >> 15u);
    return select(-1.0, 1.0, x >= 0x80000000u);
}

fn round_lloyd(x: ptr<function, Numbers>) {
    var sum = 0.0;
    for (var i = 0u; i < HEAD_DIM; i++) { sum = fma((*x)[i], (*x)[i], sum); }
    let norm = half(sqrt(sum));
    let size = sqrt(f32(HEAD_DIM));
    for (var i = 0u; i < HEAD_DIM; i++) { (*x)[i] = (*x)[i] * sign(i) * size * inverse(norm); }
    rotate(x);
    for (var i = 0u; i < HEAD_DIM; i++) {
        let outer = abs((*x)[i]) > 0.5 * (0.45278 + 1.5104176);
        let level = select(0.7978846, select(0.45278, 1.5104176, outer), LEVELS == 4u);
        (*x)[i] = select(level, -level, (*x)[i] < 0.0);
    }
    rotate(x);
    for (var i = 0u; i < HEAD_DIM; i++) { (*x)[i] = (*x)[i] * sign(i) / size * norm; }
}

fn round_heads(kv: u32, token: u32) {
    let at = (kv * params.capacity + token) * WORDS;
    var x: Numbers;
    for (var i = 0u; i < WORDS; i++) {
        let pair = unpack2x16float(source[at + i]);
        x[2u * i] = pair.x;
        x[2u * i + 1u] = pair.y;
    }
    if HADAMARD { rotate(&x); }
    if CODEC == 4u { round_lloyd(&x); }
    for (var i = 0u; i < HEAD_DIM; i += GROUP) {
        if CODEC == 0u { round_q8(&x, i); }
        if CODEC == 1u { round_q4(&x, i); }
        if CODEC == 2u { round_range(&x, i); }
    }
    if HADAMARD { rotate(&x); }
    for (var i = 0u; i < WORDS; i++) { rounded[at + i] = pack2x16float(vec2f(half(x[2u * i]), half(x[2u * i + 1u]))); }
}

fn round_tokens(kv: u32, first: u32, word: u32) {
    let at = (kv * params.capacity + first) * WORDS + word;
    let count = min(GROUP, params.tokens - first);
    var x: Numbers;
    for (var t = 0u; t < count; t++) {
        let pair = unpack2x16float(source[at + t * WORDS]);
        x[t] = pair.x;
        x[GROUP + t] = pair.y;
    }
    if count == GROUP {
        round_range(&x, 0u);
        round_range(&x, GROUP);
    }
    for (var t = 0u; t < count; t++) { rounded[at + t * WORDS] = pack2x16float(vec2f(half(x[t]), half(x[GROUP + t]))); }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let item = wg.x * WG + lane;
    if CODEC == 3u {
        let first = item / WORDS * GROUP;
        if first < params.tokens { round_tokens(wg.y, first, item % WORDS); }
    } else if item < params.tokens { round_heads(wg.y, item); }
}
