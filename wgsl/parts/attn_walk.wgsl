// One split of attention to an exact cache, and its partial states (see attn_merge).
//
// The GROUP query heads of a key/value head are cut into CHUNKS chunks of HEADS, each with CHUNK_LANES lanes. In a chunk
// TOKEN_LANES lanes take a token's row, eight channels each, so that a load is 16 bytes; every group of them walks its own
// tokens, four at a time, with an online softmax of its own, and the groups are folded at the end. With subgroups the
// walk needs no barrier. A split that saw no token has m = F32_LOWEST, d = 0, o = 0. The importing kernel has WG lanes and
// the bindings keys and values: array<vec4u>, partial_o: array<vec4f>, partial_md: array<vec2f>.
#import heads_4 // @param HEADS_PART heads_1 to heads_4
#import scores

const CHUNK_LANES: u32 = 64u; // @param lanes per chunk, a power of two
const CHUNKS: u32 = 1u;       // @param chunks of query heads
const TOKEN_LANES: u32 = 16u; // @param lanes per token: HEAD_DIM / 8, rounded up to a power of two
const HEAD_DIM: u32 = 128u;   // @param channels per head, a multiple of 8
const GROUP: u32 = 4u;        // @param query heads per key/value head
const WG: u32 = CHUNK_LANES * CHUNKS;
const GROUPS: u32 = CHUNK_LANES / TOKEN_LANES;
const STEP: u32 = 4u * GROUPS; // tokens that a workgroup takes at once
const OCTETS: u32 = HEAD_DIM / 8u;
const F32_LOWEST: f32 = -3.4028234663852886e38;

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

/// First slot, of `seen`, of one of so many splits, and its end.
fn split_of(split: u32, splits: u32, seen: u32) -> vec2u {
    let span = (seen + splits * STEP - 1u) / (splits * STEP) * STEP;
    return vec2u(split * span, min((split + 1u) * span, seen));
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

/// The first keys of a split, of rows whose first octet is number `row`: they may travel while other things are done.
fn first_keys(split: vec2u, row: u32, place: Place) -> Rows {
    let first = split.x + place.group;
    let last = max(split.y, 1u) - 1u;
    let base = row + min(place.octet, OCTETS - 1u);
    return Rows(
        keys[base + min(first, last) * OCTETS],
        keys[base + min(first + GROUPS, last) * OCTETS],
        keys[base + min(first + 2u * GROUPS, last) * OCTETS],
        keys[base + min(first + 3u * GROUPS, last) * OCTETS],
    );
}

/// Walks slots `split.x` up to `split.y`, of rows whose first octet is number `row`.
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
        let v0 = values[base + min(t, last) * OCTETS];
        let v1 = values[base + min(t + GROUPS, last) * OCTETS];
        let v2 = values[base + min(t + 2u * GROUPS, last) * OCTETS];
        let v3 = values[base + min(t + 3u * GROUPS, last) * OCTETS];
        let part = Four(octet_dot(own, k0), octet_dot(own, k1), octet_dot(own, k2), octet_dot(own, k3));
        k0 = keys[base + min(t + STEP, last) * OCTETS]; // the next keys travel while these are weighed
        k1 = keys[base + min(t + STEP + GROUPS, last) * OCTETS];
        k2 = keys[base + min(t + STEP + 2u * GROUPS, last) * OCTETS];
        k3 = keys[base + min(t + STEP + 3u * GROUPS, last) * OCTETS];

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
