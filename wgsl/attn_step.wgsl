// attn_step: a new token's query and key are rotated to its position, its key and value stored in an exact cache, and it
// attends to all of that: what rope_store and attn_decode do, for one token and in one dispatch.
//
//   q[h]                = rope(position) * qkv[h] / sqrt(HEAD_DIM)
//   keys[k][position]   = rope(position) * qkv[K * GROUP + k]
//   values[k][position] = qkv[K * GROUP + K + k]
//   s[n]                = sum_c q[h][c] * keys[k][n][c]              n <= position, of this split
//   partial_md          = (m, d): m = max_n s[n], d = sum_n exp(s[n] - m)
//   partial_o[c]        = sum_n exp(s[n] - m) * values[k][n][c]      over d, where one split is all
//
//   qkv         f32    [1][(K * GROUP + 2 K) * HEAD_DIM]
//   rope_table  vec2f  [256 + context/256][PAIRS]
//   keys        f16    [K][capacity][HEAD_DIM]      packed in pairs; values likewise
//   partial_o   f32    [states][K * GROUP][HEAD_DIM]
//   partial_md  vec2f  [states][K * GROUP]
//
// A workgroup per split (x) and key/value head (y), laid out as parts/attn_walk.wgsl says. The one whose split ends with
// the new token stores it and reads it back, so that it counts as the cache holds it.
#import rope
#import halves
#import attn_walk

const PAIRS: u32 = HEAD_DIM / 2u;

struct Params {
    position: u32,
    capacity: u32,
    whole: u32,    // whether one split is all
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(2) var<storage, read> rope_table: array<vec2f>;
@group(0) @binding(3) var<storage, read_write> keys: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> values: array<vec4u>;
@group(0) @binding(5) var<storage, read_write> partial_o: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> partial_md: array<vec2f>;

/// How four channels turn: cosines, and sines with the sign that their pairs' other channels count by.
fn turn_of(at: u32) -> mat2x4f {
    let pair = at % PAIRS; // quads lie in one half: PAIRS is a multiple of 4
    let a = rope(params.position, pair);
    let b = rope(params.position, pair + 1u);
    let c = rope(params.position, pair + 2u);
    let d = rope(params.position, pair + 3u);
    return mat2x4f(vec4f(a.x, b.x, c.x, d.x), vec4f(a.y, b.y, c.y, d.y) * select(1.0, -1.0, at < PAIRS));
}

/// Four channels, from `at`, of a head of qkv, turned.
fn turned(head: u32, at: u32, turn: mat2x4f) -> vec4f {
    let row = head * (HEAD_DIM / 4u);
    return qkv[row + at / 4u] * turn[0] + qkv[row + (at + PAIRS) % HEAD_DIM / 4u] * turn[1];
}

/// Four channels, from `at`, of the lane's heads; a chunk's missing last head repeats the group's last.
fn load_q(row: u32, head: u32, at: u32) -> mat4x4f {
    let turn = turn_of(at);
    let a = turned(row + min(head, GROUP - 1u), at, turn);
    let b = turned(row + min(head + 1u, GROUP - 1u), at, turn);
    let c = turned(row + min(head + 2u, GROUP - 1u), at, turn);
    let d = turned(row + min(head + 3u, GROUP - 1u), at, turn);
    return transpose(mat4x4f(a, b, c, d)) * (1.0 / sqrt(f32(HEAD_DIM)));
}

fn store_token(kv_head: u32, kv_heads: u32, octet: u32) {
    let at = 8u * octet;
    let head = kv_heads * GROUP + kv_head;
    let low = pack(turned(head, at, turn_of(at)));
    let high = pack(turned(head, at + 4u, turn_of(at + 4u)));
    let row = (head + kv_heads) * (HEAD_DIM / 4u) + at / 4u;
    let to = (kv_head * params.capacity + params.position) * OCTETS + octet;
    keys[to] = vec4u(low, high);
    values[to] = vec4u(pack(qkv[row]), pack(qkv[row + 1u]));
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) wg: vec3u,
    @builtin(num_workgroups) grid: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let seen = params.position + 1u;
    let split = split_of(wg.x, grid.x, seen);
    if split.y == seen && split.x < seen {
        if lane < OCTETS { store_token(wg.y, grid.y, lane); }
        storageBarrier();
    }
    let place = place_of(lane);
    let row = wg.y * GROUP;
    let at = min(place.octet, OCTETS - 1u) * 8u;
    let own = octet_of(load_q(row, place.head, at), load_q(row, place.head, at + 4u), place.octet);
    var walked = walk(own, split, wg.y * params.capacity * OCTETS, place, lane);
    if params.whole != 0u {
        for (var i = 0u; i < HEADS; i++) {
            walked.low[i] /= walked.d[i];
            walked.high[i] /= walked.d[i];
        }
    }
    store_all(wg.x * grid.y * GROUP + row, walked, place);
}
