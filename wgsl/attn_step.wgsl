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

const QUADS: u32 = 2u * OCTETS;

/// Cosines of a quad's channels, and sines as their pairs' other channels count: those of the first half are subtracted.
fn turn_of(quad: u32) -> mat2x4f {
    let pair = 4u * (quad % OCTETS);
    let a = rope(params.position, pair);
    let b = rope(params.position, pair + 1u);
    let c = rope(params.position, pair + 2u);
    let d = rope(params.position, pair + 3u);
    return mat2x4f(vec4f(a.x, b.x, c.x, d.x), vec4f(a.y, b.y, c.y, d.y) * select(1.0, -1.0, quad < OCTETS));
}

/// A quad of a head of qkv, turned.
fn turned(head: u32, quad: u32, turn: mat2x4f) -> vec4f {
    return qkv[head * QUADS + quad] * turn[0] + qkv[head * QUADS + (quad + OCTETS) % QUADS] * turn[1];
}

/// Puts a quad of the chunk's queries, turned and scaled, into sh_heads; a chunk's missing last head repeats the group's.
fn put_query(row: u32, head: u32, quad: u32, to: u32) {
    let turn = turn_of(quad) * (1.0 / sqrt(f32(HEAD_DIM)));
    let a = turned(row + min(head, GROUP - 1u), quad, turn);
    let b = turned(row + min(head + 1u, GROUP - 1u), quad, turn);
    let c = turned(row + min(head + 2u, GROUP - 1u), quad, turn);
    let d = turned(row + min(head + 3u, GROUP - 1u), quad, turn);
    let channels = transpose(mat4x4f(a, b, c, d));
    sh_heads[to] = heads_of(channels[0]);
    sh_heads[to + 1u] = heads_of(channels[1]);
    sh_heads[to + 2u] = heads_of(channels[2]);
    sh_heads[to + 3u] = heads_of(channels[3]);
}

/// A lane's octet of its chunk's queries. A quad is turned by one lane and read by those of all groups.
fn query_octet(row: u32, place: Place, lane: u32) -> Octet {
    let own = lane % CHUNK_LANES;
    let quad = 2u * place.octet;
    var octet: Octet; // lanes past the row's end find nothing
    for (var first = 0u; first < QUADS; first += CHUNK_LANES) {
        if first > 0u { workgroupBarrier(); } // the last ones may still be read
        if first + own < QUADS { put_query(row, place.head, first + own, 4u * lane); }
        workgroupBarrier();
        if quad >= first && quad < min(first + CHUNK_LANES, QUADS) {
            let at = 4u * (lane - own + quad - first);
            octet = Octet(
                sh_heads[at], sh_heads[at + 1u], sh_heads[at + 2u], sh_heads[at + 3u],
                sh_heads[at + 4u], sh_heads[at + 5u], sh_heads[at + 6u], sh_heads[at + 7u],
            );
        }
    }
    return octet;
}

fn scaled(x: mat4x4f, by: vec4f) -> mat4x4f {
    return mat4x4f(x[0] * by.x, x[1] * by.y, x[2] * by.z, x[3] * by.w);
}

/// Stores an octet of the new token's key and value.
fn store_token(kv_head: u32, kv_heads: u32, octet: u32) {
    let key = kv_heads * GROUP + kv_head;
    let quad = 2u * octet;
    let value = (key + kv_heads) * QUADS + quad;
    let to = (kv_head * params.capacity + params.position) * OCTETS + octet;
    let low = turned(key, quad, turn_of(quad));
    let high = turned(key, quad + 1u, turn_of(quad + 1u));
    keys[to] = vec4u(pack(low), pack(high));
    values[to] = vec4u(pack(qkv[value]), pack(qkv[value + 1u]));
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) wg: vec3u,
    @builtin(num_workgroups) grid: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let seen = params.position + 1u;
    let split = split_of(wg.x, grid.x, seen);
    let slots = wg.y * params.capacity * OCTETS;
    let place = place_of(lane);
    let row = wg.y * GROUP;

    // The new token is stored while queries are turned; keys that wait for nothing travel meanwhile.
    let has_new = split.y == seen && split.x < seen;
    var begun: Rows;
    if !has_new { begun = first_keys(split, slots, place); }
    if has_new && lane >= WG - OCTETS { store_token(wg.y, grid.y, lane - (WG - OCTETS)); }
    let own = query_octet(row, place, lane);
    if has_new {
        storageBarrier();
        begun = first_keys(split, slots, place);
    }
    let x = walk(own, begun, split, slots, place, lane);
    let by = select(vec4f(1.0), 1.0 / x.d, params.whole != 0u);
    let out = Walked(scaled(x.low, by), scaled(x.high, by), x.m, x.d);
    store_all(wg.x * grid.y * GROUP + row, out, place);
}
