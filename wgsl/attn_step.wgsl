// attn_step: a new token's query and key are rotated to its position, its key and value are stored in a cache, and it
// attends to the cache's tokens, itself among them.
//
//   q[h]              = rope(position) * qkv[h] / sqrt(HEAD_DIM)
//   keys[k][slot]     = rope(position) * qkv[K * GROUP + k]
//   values[k][slot]   = qkv[K * GROUP + K + k]
//   s[n]              = sum_c q[h][c] * keys[k][slot(n)][c]             n < seen, of this split
//   partial_md        = (m, d): m = max_n s[n], d = sum_n exp(s[n] - m)
//   partial_o[c]      = sum_n exp(s[n] - m) * values[k][slot(n)][c]     over d, where that is the whole attention
//
//   slot(n) is n, and with HAS_GAP n + gap from n = hole on
//
//   qkv         f32    [1][(K * GROUP + 2 K) * HEAD_DIM]
//   rope_table  vec2f  [256 + context/256][PAIRS]
//   keys        f16    [K][capacity][HEAD_DIM]      packed in pairs; values likewise
//   q           f32    [1][K * GROUP][HEAD_DIM]
//   partial_o   f32    [states][K * GROUP][HEAD_DIM]     a state a split; see attn_merge
//   partial_md  vec2f  [states][K * GROUP]
//
// A workgroup per split (x) and key/value head (y). The GROUP query heads are cut into CHUNKS chunks of HEADS, each with
// CHUNK_LANES lanes. In a chunk TOKEN_LANES lanes take a token's row, eight channels each, so that a load is 16 bytes;
// every group of them walks its own tokens, four at a time, with an online softmax of its own, and the groups are folded
// at the end. With subgroups the walk needs no barrier. The workgroup whose split has the new token stores it and reads it
// back, so that it counts as the cache holds it. A split without tokens has m = F32_LOWEST, d = 0, o = 0.
#import rope
#import halves
#import heads_4 // @param HEADS_PART heads_1 to heads_4
#import scores

const CHUNK_LANES: u32 = 64u;  // @param lanes per chunk, a power of two
const CHUNKS: u32 = 1u;        // @param chunks of query heads
const TOKEN_LANES: u32 = 16u;  // @param lanes per token: HEAD_DIM / 8, rounded up to a power of two
const HEAD_DIM: u32 = 128u;    // @param channels per head, a multiple of 8
const GROUP: u32 = 4u;         // @param query heads per key/value head
const HAS_GAP: bool = false;   // @param slots may leave a gap
const WG: u32 = CHUNK_LANES * CHUNKS;
const GROUPS: u32 = CHUNK_LANES / TOKEN_LANES;
const STEP: u32 = 4u * GROUPS; // tokens that a workgroup takes at once
const PAIRS: u32 = HEAD_DIM / 2u;
const OCTETS: u32 = HEAD_DIM / 8u;
const QUADS: u32 = 2u * OCTETS;
const F32_LOWEST: f32 = -3.4028234663852886e38;

struct Params {
    position: u32, // of the new token
    slot: u32,     // of the new token
    seen: u32,     // tokens that it sees, itself included
    hole: u32,     // the first whose slots come after the gap
    gap: u32,
    capacity: u32,
    whole: u32,    // whether a single split is the whole attention
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(2) var<storage, read> rope_table: array<vec2f>;
@group(0) @binding(3) var<storage, read_write> keys: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> values: array<vec4u>;
@group(0) @binding(5) var<storage, read_write> q: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> partial_o: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> partial_md: array<vec2f>;

var<workgroup> sh_heads: array<Heads, 4u * WG>;

/// Eight channels of a lane's heads.
struct Octet {
    a: Heads,
    b: Heads,
    c: Heads,
    d: Heads,
    e: Heads,
    f: Heads,
    g: Heads,
    h: Heads,
}

fn octet_dot(x: Octet, y: vec4u) -> Heads {
    let ab = unpack2x16float(y.x);
    let cd = unpack2x16float(y.y);
    let ef = unpack2x16float(y.z);
    let gh = unpack2x16float(y.w);
    let low = fma(x.d, Heads(cd.y), fma(x.c, Heads(cd.x), fma(x.b, Heads(ab.y), x.a * ab.x)));
    return fma(x.h, Heads(gh.y), fma(x.g, Heads(gh.x), fma(x.f, Heads(ef.y), fma(x.e, Heads(ef.x), low))));
}

/// x + w y
fn octet_add(x: Octet, w: Heads, y: vec4u) -> Octet {
    let ab = unpack2x16float(y.x);
    let cd = unpack2x16float(y.y);
    let ef = unpack2x16float(y.z);
    let gh = unpack2x16float(y.w);
    return Octet(
        fma(w, Heads(ab.x), x.a),
        fma(w, Heads(ab.y), x.b),
        fma(w, Heads(cd.x), x.c),
        fma(w, Heads(cd.y), x.d),
        fma(w, Heads(ef.x), x.e),
        fma(w, Heads(ef.y), x.f),
        fma(w, Heads(gh.x), x.g),
        fma(w, Heads(gh.y), x.h),
    );
}

fn octet_scale(x: Octet, w: Heads) -> Octet {
    return Octet(x.a * w, x.b * w, x.c * w, x.d * w, x.e * w, x.f * w, x.g * w, x.h * w);
}

/// What a lane is to do.
struct Place {
    head: u32,  // first of its query heads, of the group's
    octet: u32, // of the row; may lie past its end
    group: u32, // of its chunk
}

fn place_of(lane: u32) -> Place {
    return Place(lane / CHUNK_LANES * HEADS, lane % TOKEN_LANES, (lane % CHUNK_LANES) / TOKEN_LANES);
}

/// The first token, of `seen`, of one of so many splits, and its end.
fn split_of(split: u32, splits: u32, seen: u32) -> vec2u {
    let span = (seen + splits * STEP - 1u) / (splits * STEP) * STEP;
    return vec2u(split * span, min((split + 1u) * span, seen));
}

/// Where a token's octet lies, from that of slot 0 on.
fn octet_at(token: u32, base: u32) -> u32 {
    return base + (token + select(0u, params.gap, HAS_GAP && token >= params.hole)) * OCTETS;
}

/// The chunk's largest over its groups, by head.
fn groups_max(x: Heads, first: u32, lane: u32) -> Heads {
    workgroupBarrier();
    sh_heads[lane] = x;
    workgroupBarrier();
    var most = x;
    for (var i = 0u; i < GROUPS; i++) { most = max(most, sh_heads[first + i * TOKEN_LANES]); }
    return most;
}

/// The chunk's sums over its groups.
fn groups_sum(x: Four, first: u32, lane: u32) -> Four {
    workgroupBarrier();
    sh_heads[lane] = x.a;
    sh_heads[WG + lane] = x.b;
    sh_heads[2u * WG + lane] = x.c;
    sh_heads[3u * WG + lane] = x.d;
    workgroupBarrier();
    var sum = Four(Heads(0.0), Heads(0.0), Heads(0.0), Heads(0.0));
    for (var i = 0u; i < GROUPS; i++) {
        let at = first + i * TOKEN_LANES;
        sum = Four(
            sum.a + sh_heads[at],
            sum.b + sh_heads[WG + at],
            sum.c + sh_heads[2u * WG + at],
            sum.d + sh_heads[3u * WG + at],
        );
    }
    return sum;
}

/// Heads by channel to channels by head.
fn turn(x: Four) -> mat4x4f {
    return transpose(mat4x4f(heads_all(x.a), heads_all(x.b), heads_all(x.c), heads_all(x.d)));
}

/// What a chunk makes of a split, in lanes of its first group: an octet of four heads' outputs, their maxima and sums.
struct Walked {
    low: mat4x4f,
    high: mat4x4f,
    m: vec4f,
    d: vec4f,
}

/// A lane's octets of four tokens.
struct Rows {
    a: vec4u,
    b: vec4u,
    c: vec4u,
    d: vec4u,
}

/// The first keys of a split, of a head whose first octet is number `row`: they may travel while other things are done.
fn first_keys(split: vec2u, row: u32, place: Place) -> Rows {
    let first = split.x + place.group;
    let last = max(split.y, 1u) - 1u;
    let base = row + min(place.octet, OCTETS - 1u);
    return Rows(
        keys[octet_at(min(first, last), base)],
        keys[octet_at(min(first + GROUPS, last), base)],
        keys[octet_at(min(first + 2u * GROUPS, last), base)],
        keys[octet_at(min(first + 3u * GROUPS, last), base)],
    );
}

/// Walks tokens `split.x` up to `split.y`, of a head whose first octet is number `row`.
fn walk(own: Octet, begun: Rows, split: vec2u, row: u32, place: Place, lane: u32) -> Walked {
    scores_begin();
    let first = split.x;
    let end = split.y;
    let group = place.group;
    let last = max(end, 1u) - 1u;
    let base = row + min(place.octet, OCTETS - 1u);
    let mine = group + (lane & 3u) * GROUPS; // the token whose score this lane ends up with

    var m = Heads(F32_LOWEST);
    var d = Heads(0.0);
    var o = octet_scale(own, Heads(0.0));
    var k0 = begun.a;
    var k1 = begun.b;
    var k2 = begun.c;
    var k3 = begun.d;
    for (var n = first; n < end; n += STEP) {
        let t = n + group;
        let v0 = values[octet_at(min(t, last), base)];
        let v1 = values[octet_at(min(t + GROUPS, last), base)];
        let v2 = values[octet_at(min(t + 2u * GROUPS, last), base)];
        let v3 = values[octet_at(min(t + 3u * GROUPS, last), base)];
        let part = Four(octet_dot(own, k0), octet_dot(own, k1), octet_dot(own, k2), octet_dot(own, k3));
        k0 = keys[octet_at(min(t + STEP, last), base)]; // the next keys travel while these are weighed
        k1 = keys[octet_at(min(t + STEP + GROUPS, last), base)];
        k2 = keys[octet_at(min(t + STEP + 2u * GROUPS, last), base)];
        k3 = keys[octet_at(min(t + STEP + 3u * GROUPS, last), base)];

        let inside = n + mine < end;
        let s = select(Heads(F32_LOWEST), scores_sum(part, lane), inside);
        let most = max(m, quad_max(s, lane));
        let w = exp(s - most); // all ones where the group has seen no token yet: the fold below shrinks that to nothing
        let shrink = exp(m - most);
        m = most;
        d = fma(d, shrink, w);
        let all = quad_all(w, lane);
        o = octet_add(octet_add(octet_scale(o, shrink), all.a, v0), all.b, v1);
        o = octet_add(octet_add(o, all.c, v2), all.d, v3);
    }

    let d_all = quad_all(d, lane);
    let to = lane - lane % CHUNK_LANES + place.octet; // this lane's like in the chunk's first group
    let most = groups_max(m, to, lane);
    let shrink = exp(m - most);
    o = octet_scale(o, shrink);
    let d_own = (d_all.a + d_all.b + d_all.c + d_all.d) * shrink;
    let d_sum = heads_all(groups_sum(Four(d_own, d_own, d_own, d_own), to, lane).a);
    let low = turn(groups_sum(Four(o.a, o.b, o.c, o.d), to, lane));
    let high = turn(groups_sum(Four(o.e, o.f, o.g, o.h), to, lane));
    return Walked(low, high, heads_all(most), d_sum);
}

/// Puts a head's octet at row `row` of the states.
fn store(row: u32, head: u32, octet: u32, low: vec4f, high: vec4f, md: vec2f) {
    if head >= GROUP { return; }
    partial_o[((row + head) * OCTETS + octet) * 2u] = low;
    partial_o[((row + head) * OCTETS + octet) * 2u + 1u] = high;
    if octet == 0u { partial_md[row + head] = md; }
}

/// Stores what `walk` made, from lanes that hold any of it.
fn store_all(row: u32, x: Walked, place: Place) {
    if place.group > 0u || place.octet >= OCTETS { return; }
    store(row, place.head, place.octet, x.low[0], x.high[0], vec2f(x.m.x, x.d.x));
    if HEADS > 1u { store(row, place.head + 1u, place.octet, x.low[1], x.high[1], vec2f(x.m.y, x.d.y)); }
    if HEADS > 2u { store(row, place.head + 2u, place.octet, x.low[2], x.high[2], vec2f(x.m.z, x.d.z)); }
    if HEADS > 3u { store(row, place.head + 3u, place.octet, x.low[3], x.high[3], vec2f(x.m.w, x.d.w)); }
}

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

/// Puts a quad of the chunk's queries, turned and scaled, into sh_heads and with `keep` into q; a chunk's missing last
/// heads repeat the group's.
fn put_query(row: u32, head: u32, quad: u32, to: u32, keep: bool) {
    let turn = turn_of(quad) * (1.0 / sqrt(f32(HEAD_DIM)));
    let a = turned(row + min(head, GROUP - 1u), quad, turn);
    let b = turned(row + min(head + 1u, GROUP - 1u), quad, turn);
    let c = turned(row + min(head + 2u, GROUP - 1u), quad, turn);
    let d = turned(row + min(head + 3u, GROUP - 1u), quad, turn);
    if keep {
        q[(row + min(head, GROUP - 1u)) * QUADS + quad] = a;
        q[(row + min(head + 1u, GROUP - 1u)) * QUADS + quad] = b;
        q[(row + min(head + 2u, GROUP - 1u)) * QUADS + quad] = c;
        q[(row + min(head + 3u, GROUP - 1u)) * QUADS + quad] = d;
    }
    let channels = transpose(mat4x4f(a, b, c, d));
    sh_heads[to] = heads_of(channels[0]);
    sh_heads[to + 1u] = heads_of(channels[1]);
    sh_heads[to + 2u] = heads_of(channels[2]);
    sh_heads[to + 3u] = heads_of(channels[3]);
}

/// A lane's octet of its chunk's queries. A quad is turned by one lane and read by those of all groups.
fn query_octet(row: u32, place: Place, lane: u32, keep: bool) -> Octet {
    let own = lane % CHUNK_LANES;
    let quad = 2u * place.octet;
    var octet: Octet; // lanes past the row's end find nothing
    for (var first = 0u; first < QUADS; first += CHUNK_LANES) {
        if first > 0u { workgroupBarrier(); } // the last ones may still be read
        if first + own < QUADS { put_query(row, place.head, first + own, 4u * lane, keep); }
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
    let to = (kv_head * params.capacity + params.slot) * OCTETS + octet;
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
    let split = split_of(wg.x, grid.x, params.seen);
    let slots = wg.y * params.capacity * OCTETS;
    let place = place_of(lane);
    let row = wg.y * GROUP;

    // The new token is stored while queries are turned; keys that wait for nothing travel meanwhile.
    let newest = params.slot - select(0u, params.gap, HAS_GAP && params.slot >= params.hole + params.gap);
    let has_new = newest >= split.x && newest < split.y;
    var begun: Rows;
    if !has_new { begun = first_keys(split, slots, place); }
    if has_new && lane >= WG - OCTETS { store_token(wg.y, grid.y, lane - (WG - OCTETS)); }
    let own = query_octet(row, place, lane, wg.x == 0u);
    if has_new {
        storageBarrier();
        begun = first_keys(split, slots, place);
    }

    let x = walk(own, begun, split, slots, place, lane);
    let by = select(vec4f(1.0), 1.0 / x.d, params.whole != 0u);
    let out = Walked(scaled(x.low, by), scaled(x.high, by), x.m, x.d);
    store_all(wg.x * grid.y * GROUP + row, out, place);
}
