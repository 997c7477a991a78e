// attn_codes_words: partial attention states from the mass of words.
//
//   m         = max_i mass_md[i].m,   w_i = exp(mass_md[i].m - m)
//   partial_o = sum_word sum_i w_i mass[i][lookup][word] * table[row of lookup][word],   a state for every lookup
//   partial_md = (m, d): d = sum_i w_i mass_md[i].d, of the first lookup's state; 0 of the others'
//
//   mass        f32    [I][K][CHUNKS][LOOKUPS][64][HEADS]   see attn_codes_mass
//   mass_md     vec2f  [I][K][CHUNKS][HEADS]
//   table       u32    [K][64 * LOOKUPS][P]                 complex numbers in half precision
//   partial_o   f32    [states][Q][HEAD_DIM]                from state `state` on
//   partial_md  vec2f  [states][Q]
//
// Workgroups: x is a lookup, y a chunk of a key/value head's query heads. Lanes sum the mass of their words over splits,
// then a group of TOKEN_LANES lanes takes a word, four pairs a lane.
#import heads_4    // @param HEADS_PART heads_1, heads_2 or heads_4
#import words_half
#import reduce
#import quad_sums

const WG: u32 = 256u;          // @param lanes per workgroup, a power of two
const TOKEN_LANES: u32 = 16u;  // @param lanes per word, a power of two: at least HEAD_DIM / 8
const HEAD_DIM: u32 = 128u;    // @param channels per head, a multiple of 8
const GROUP: u32 = 4u;         // @param query heads per key/value head
const CHUNKS: u32 = 1u;        // @param chunks of HEADS of them
const LOOKUPS: u32 = 22u;      // @param two a stage
const QUADS: u32 = HEAD_DIM / 8u;
const GROUPS: u32 = WG / TOKEN_LANES;
const PARTS: u32 = WG / 64u;   // lanes that share a word's splits

struct Params {
    splits: u32,
    state: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> mass: array<Heads>;
@group(0) @binding(2) var<storage, read> mass_md: array<vec2f>;
@group(0) @binding(3) var<storage, read> table: array<TableQuad>;
@group(0) @binding(4) var<storage, read_write> partial_o: array<f32>;
@group(0) @binding(5) var<storage, read_write> partial_md: array<vec2f>;

var<workgroup> sh_heads: array<Heads, 2u * WG>;

/// m and d of every head, of one split.
fn split_md(at: u32) -> mat2x4f {
    let a = mass_md[at * HEADS];
    let b = mass_md[at * HEADS + min(1u, HEADS - 1u)];
    let c = mass_md[at * HEADS + min(2u, HEADS - 1u)];
    let d = mass_md[at * HEADS + min(3u, HEADS - 1u)];
    return mat2x4f(vec4f(a.x, b.x, c.x, d.x), vec4f(a.y, b.y, c.y, d.y));
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) wg: vec3u,
    @builtin(num_workgroups) grid: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = wg.y / CHUNKS;
    let chunk = wg.y % CHUNKS;

    var m_lane = vec4f(F32_LOWEST);
    for (var i = lane; i < params.splits; i += WG) { m_lane = max(m_lane, split_md(i * grid.y + wg.y)[0]); }
    let m = vec4f(
        workgroup_max(m_lane.x, lane),
        workgroup_max(m_lane.y, lane),
        workgroup_max(m_lane.z, lane),
        workgroup_max(m_lane.w, lane),
    );
    var d_lane = vec4f();
    for (var i = lane; i < params.splits; i += WG) {
        let md = split_md(i * grid.y + wg.y);
        d_lane += md[1] * exp(md[0] - m);
    }
    let d = workgroup_sum4(d_lane, lane);

    // The mass of word lane % 64, over every PARTS-th split; then over the parts.
    let word = lane % 64u;
    var sum = Heads();
    for (var i = lane / 64u; i < params.splits; i += 4u * PARTS) {
        let last = params.splits - 1u;
        let i1 = min(i + PARTS, last);
        let i2 = min(i + 2u * PARTS, last);
        let i3 = min(i + 3u * PARTS, last);
        let source = wg.x * 64u + word;
        let a = mass[(i * grid.y + wg.y) * LOOKUPS * 64u + source]; // four loads at once, to wait once
        let b = mass[(i1 * grid.y + wg.y) * LOOKUPS * 64u + source];
        let c = mass[(i2 * grid.y + wg.y) * LOOKUPS * 64u + source];
        let e = mass[(i3 * grid.y + wg.y) * LOOKUPS * 64u + source];
        sum += a * heads_of(exp(split_md(i * grid.y + wg.y)[0] - m));
        if i + PARTS <= last { sum += b * heads_of(exp(split_md(i1 * grid.y + wg.y)[0] - m)); }
        if i + 2u * PARTS <= last { sum += c * heads_of(exp(split_md(i2 * grid.y + wg.y)[0] - m)); }
        if i + 3u * PARTS <= last { sum += e * heads_of(exp(split_md(i3 * grid.y + wg.y)[0] - m)); }
    }
    workgroupBarrier();
    sh_heads[lane] = sum;
    workgroupBarrier();
    if lane < 64u {
        for (var i = 1u; i < PARTS; i++) { sum += sh_heads[64u * i + word]; }
        sh_heads[WG + lane] = sum;
    }
    workgroupBarrier();

    let quad = min(lane % TOKEN_LANES, QUADS - 1u);
    var o = sums_none();
    for (var i = lane / TOKEN_LANES; i < 64u; i += GROUPS) {
        let at = ((head * LOOKUPS + wg.x) * 64u + i) * QUADS + quad;
        o = sums_add(o, sh_heads[WG + i], words_at(at));
    }
    let heads = GROUP - min(chunk * HEADS, GROUP);
    let out = ((params.state + wg.x) * grid.y / CHUNKS + head) * GROUP + chunk * HEADS;
    sums_store(o, out, heads, quad, lane % TOKEN_LANES < QUADS, lane);
    if lane < min(HEADS, heads) { partial_md[out + lane] = vec2f(m[lane], select(0.0, d[lane], wg.x == 0u)); }
}
