// code_residual: what a codec's first stage codes. A token's heads are divided by its scale, one for all of them.
//
//   scales[t]      = |x_t| over all heads, in half precision
//   residual[k][t] = conj(rope(position + t)) * x_t[k] / scales[t];   0 where the scale is 0
//
//   source      CACHE: f16 [KV_HEADS][capacity][HEAD_DIM], packed in pairs; else f32 rows [T][capacity], heads side by
//               side from number `offset` on. Pair d of a head is its channels d and d + PAIRS
//   rope_table  vec2f  [256 + context/256][PAIRS]   read where ROTATED
//   scales      f16    [T], packed in pairs; the block's words from `scale_at` on
//   residual    f32    [heads][blocks][HEAD_DIM][32]   heads from `first_head` on; component 2d is pair d's real part
//
// One workgroup per block of 32 tokens: lane 32 i + t takes every eighth two pairs of token t. Tokens past the last are 0.
#import halves
#import rope

const WG: u32 = 256u;
const HEAD_DIM: u32 = 128u;   // @param channels per head, a multiple of 4
const KV_HEADS: u32 = 8u;     // @param heads that share a scale
const CACHE: bool = false;    // @param the source is an exact cache
const ROTATED: bool = false;  // @param undo a rotation by the token's position
const PAIRS: u32 = HEAD_DIM / 2u;
const TWOS: u32 = PAIRS / 2u; // two pairs each

struct Params {
    tokens: u32,
    first: u32,    // slot or row of the first token
    position: u32, // of the first token
    capacity: u32, // slots of the cache, or numbers of a row
    offset: u32,
    first_head: u32,
    heads: u32,
    blocks: u32,   // that residual has room for
    block: u32,    // first of them
    scale_at: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> source: array<u32>;
@group(0) @binding(2) var<storage, read> rope_table: array<vec2f>;
@group(0) @binding(3) var<storage, read_write> scales: array<u32>;
@group(0) @binding(4) var<storage, read_write> residual: array<f32>;

var<workgroup> sh_sums: array<f32, WG>;

/// Pairs 2 `two` and 2 `two` + 1 of a token's head: real parts, then imaginary ones.
fn load(token: u32, head: u32, two: u32) -> vec4f {
    if CACHE {
        let at = (head * params.capacity + params.first + token) * PAIRS + two;
        return vec4f(unpack2x16float(source[at]), unpack2x16float(source[at + TWOS]));
    }
    let at = (params.first + token) * params.capacity + params.offset + head * HEAD_DIM + 2u * two;
    return bitcast<vec4f>(vec4u(source[at], source[at + 1u], source[at + PAIRS], source[at + PAIRS + 1u]));
}

fn put(at: u32, x: vec2f) {
    residual[at] = x.x;
    residual[at + 32u] = x.y;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let token = wg.x * 32u + (lane & 31u);
    let valid = token < params.tokens;
    var sum = 0.0;
    if valid {
        for (var i = lane >> 5u; i < KV_HEADS * TWOS; i += 8u) {
            let x = load(token, i / TWOS, i % TWOS);
            sum += dot(x, x);
        }
    }
    sh_sums[lane] = sum;
    for (var stride = 128u; stride >= 32u; stride >>= 1u) {
        workgroupBarrier();
        if lane < stride { sh_sums[lane] += sh_sums[lane + stride]; }
    }
    workgroupBarrier();
    let even = lane & 30u;
    let packed = pack2x16float(min(vec2f(F16_HIGHEST), sqrt(vec2f(sh_sums[even], sh_sums[even + 1u]))));
    if lane < 32u && lane == even { scales[params.scale_at + wg.x * 16u + even / 2u] = packed; }
    let scale = unpack2x16float(packed)[lane & 1u];
    let inverse = select(0.0, 1.0 / scale, scale > 0.0);

    for (var i = lane >> 5u; i < params.heads * TWOS; i += 8u) {
        let head = i / TWOS;
        let two = i % TWOS;
        var x = vec4f(0.0);
        if valid { x = load(token, params.first_head + head, two) * inverse; }
        var a = x.xz;
        var b = x.yw;
        if ROTATED {
            a = complex_mul(a, complex_conj(rope(params.position + token, 2u * two)));
            b = complex_mul(b, complex_conj(rope(params.position + token, 2u * two + 1u)));
        }
        let to = ((head * params.blocks + params.block + wg.x) * HEAD_DIM + 4u * two) * 32u + (lane & 31u);
        put(to, a);
        put(to + 64u, b);
    }
}
