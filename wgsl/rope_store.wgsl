// rope_store: rotate a chunk's queries and keys to their positions, and put keys and values into the exact cache.
//
//   q[t][h]          = rope(position + t) * qkv[t][h] / sqrt(HEAD_DIM)
//   keys[k][slot+t]   = rope(position + t) * qkv[t][Q_HEADS + k]      (not rotated unless ROTATE_KEYS)
//   values[k][slot+t] = qkv[t][Q_HEADS + KV_HEADS + k]
//
//   qkv         f32    [T][(Q_HEADS + 2 KV_HEADS) * HEAD_DIM]
//   rope_table  vec2f  [256 + context/256][PAIRS]
//   q           f32    [T][Q_HEADS][HEAD_DIM]
//   keys        f16    [KV_HEADS][capacity][HEAD_DIM], packed in pairs; values likewise
//
// Pair d of a head is its channels d and d + PAIRS. A lane takes four pairs of one head: workgroups cover a token's
// heads along x, tokens along y, and along z where y is full. What half precision cannot hold is clamped to its largest.
#import rope
#import halves

const WG: u32 = 64u;              // @param lanes per workgroup
const HEAD_DIM: u32 = 128u;       // @param channels per head, a multiple of 8
const Q_HEADS: u32 = 32u;         // @param query heads
const KV_HEADS: u32 = 8u;         // @param key/value heads
const ROTATE_KEYS: bool = true;   // @param keys go into the cache after their rotation
const PAIRS: u32 = HEAD_DIM / 2u;
const HEADS: u32 = Q_HEADS + 2u * KV_HEADS;
const QUADS: u32 = PAIRS / 4u;    // vec4f in half a head

struct Params {
    tokens: u32,
    position: u32, // of the first token
    slot: u32,     // of the first token
    capacity: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(2) var<storage, read> rope_table: array<vec2f>;
@group(0) @binding(3) var<storage, read_write> q: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> keys: array<vec2u>;
@group(0) @binding(5) var<storage, read_write> values: array<vec2u>;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) wg: vec3u,
    @builtin(num_workgroups) grid: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = wg.x * WG + lane;
    let head = item / QUADS;
    let quad = item % QUADS;
    let token = wg.y + wg.z * grid.y;
    if head >= HEADS || token >= params.tokens { return; }

    let at = (token * HEADS + head) * 2u * QUADS + quad;
    var re = qkv[at];
    var im = qkv[at + QUADS];
    if head < Q_HEADS || (ROTATE_KEYS && head < Q_HEADS + KV_HEADS) {
        let a = rope(params.position + token, 4u * quad);
        let b = rope(params.position + token, 4u * quad + 1u);
        let c = rope(params.position + token, 4u * quad + 2u);
        let d = rope(params.position + token, 4u * quad + 3u);
        let cosine = vec4f(a.x, b.x, c.x, d.x);
        let sine = vec4f(a.y, b.y, c.y, d.y);
        let turned = re * cosine - im * sine;
        im = re * sine + im * cosine;
        re = turned;
    }
    if head < Q_HEADS {
        let scale = 1.0 / sqrt(f32(HEAD_DIM));
        let to = (token * Q_HEADS + head) * 2u * QUADS + quad;
        q[to] = re * scale;
        q[to + QUADS] = im * scale;
    } else if head < Q_HEADS + KV_HEADS {
        let to = ((head - Q_HEADS) * params.capacity + params.slot + token) * 2u * QUADS + quad;
        keys[to] = pack(re);
        keys[to + QUADS] = pack(im);
    } else {
        let to = ((head - Q_HEADS - KV_HEADS) * params.capacity + params.slot + token) * 2u * QUADS + quad;
        values[to] = pack(re);
        values[to + QUADS] = pack(im);
    }
}
