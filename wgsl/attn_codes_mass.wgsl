// attn_codes_mass: how much softmax weight each word of a value codec of pair stages gets, split by split. Values are
// sums of words, so their weighted sum is a sum of words too, each weighted by its mass (CommVQ, section 4.3):
//
//   mass[l][word]  = sum_t exp(s[t] - m) scale[t] [code_l[t] = word],   m = max_t s[t], d = sum_t exp(s[t] - m)
//
//   scores      Heads  [K][CHUNKS][capacity]           see attn_codes_scores
//   codes       u32    [blocks][K][bits]               src/core/pack.ts
//   scales      f16    [T]                             packed in pairs
//   mass        f32    [I][K][CHUNKS][LOOKUPS][64][HEADS]   lookup 2s is u of stage s, 2s + 1 is v
//   mass_md     vec2f  [I][K][CHUNKS][HEADS]           m and d
//
// Workgroups: x splits the tokens, y is a chunk of a key/value head's query heads. A lane is a lookup of a query head and
// walks over all of the split's tokens: nobody else touches its 64 numbers, which lie in a memory bank of their own.
#import heads_4 // @param HEADS_PART heads_1, heads_2 or heads_4
#import reduce
#import softmax_weights

const WG: u32 = 128u;     // @param lanes per workgroup, a power of two
const CHUNKS: u32 = 1u;   // @param chunks of query heads
const LOOKUPS: u32 = 22u; // @param two a stage
const BITS: u32 = 132u;   // @param bits of a token and head
const COLUMNS: u32 = LOOKUPS * HEADS;
const TILE: u32 = 256u;   // tokens that are weighed at a time

struct Params {
    first: u32,    // first token, a multiple of 32
    tokens: u32,
    capacity: u32, // tokens that the scores have room for, a multiple of 8
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scores: array<Heads>;
@group(0) @binding(2) var<storage, read> codes: array<u32>;
@group(0) @binding(3) var<storage, read> scales: array<u32>;
@group(0) @binding(4) var<storage, read_write> mass: array<f32>;
@group(0) @binding(5) var<storage, read_write> mass_md: array<vec2f>;

var<workgroup> sh_mass: array<f32, 64u * COLUMNS>;
var<workgroup> sh_weights: array<vec4f, HEADS * TILE / 4u>; // a head's tokens side by side

/// Where the first word of a column lies, and how far apart its words are: 32 columns share a stretch.
fn column_place(column: u32) -> vec2u {
    let stretch = column & ~31u;
    return vec2u(stretch * 64u + (column & 31u), min(32u, COLUMNS - stretch));
}

/// Adds two tokens' weights to their words. Both are read before either is written, to wait for memory once.
fn add_two(place: vec2u, a: u32, b: u32, wa: f32, wb: f32) {
    let at = place.x + a * place.y;
    let bt = place.x + b * place.y;
    let old_a = sh_mass[at];
    let old_b = sh_mass[bt];
    let new_a = old_a + wa;
    sh_mass[at] = new_a;
    sh_mass[bt] = select(old_b, new_a, a == b) + wb;
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) wg: vec3u,
    @builtin(num_workgroups) grid: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = wg.y / CHUNKS;
    let span = (params.tokens + grid.x * 32u - 1u) / (grid.x * 32u) * 32u;
    let begin = wg.x * span;
    let end = min(begin + span, params.tokens);
    let scored = wg.y * params.capacity;
    let m = scores_max(scored, begin, end, lane);

    let column = min(lane, COLUMNS - 1u);
    let place = column_place(column);
    let own_head = column % HEADS;
    let lookup = column / HEADS;
    let shift = select(6u, 0u, (lookup & 1u) != 0u); // u is the code's upper half
    var d = Heads();
    for (var tile = begin; tile < end; tile += TILE) {
        workgroupBarrier();
        for (var i = lane; i < TILE; i += WG) {
            var w = Heads();
            if tile + i < end {
                w = exp(scores[scored + tile + i] - m);
                d += w;
                w *= scale_at(tile + i);
            }
            let all = heads_all(w);
            sh_weights[i / 4u][i % 4u] = all.x;
            if HEADS > 1u { sh_weights[(TILE + i) / 4u][i % 4u] = all.y; }
            if HEADS > 2u {
                sh_weights[(2u * TILE + i) / 4u][i % 4u] = all.z;
                sh_weights[(3u * TILE + i) / 4u][i % 4u] = all.w;
            }
        }
        workgroupBarrier();
        if lane < COLUMNS {
            for (var i = 0u; i < min(TILE, end - tile); i += 8u) {
                let token = params.first + tile + i;
                let block = ((token >> 5u) * (grid.y / CHUNKS) + head) * BITS;
                let at = block + lookup / 2u * 12u + ((token >> 3u) & 3u) * 3u;
                let a = codes[at];
                let b = codes[at + 1u];
                let c = codes[at + 2u];
                let x = (a >> shift) | ((b << 1u) << (31u - shift)); // the octet's codes, the lookup's half lowest
                let y = (b >> shift) | ((c << 1u) << (31u - shift));
                let z = c >> shift;
                let low = sh_weights[(own_head * TILE + i) / 4u];
                let high = sh_weights[(own_head * TILE + i) / 4u + 1u];
                add_two(place, x & 63u, (x >> 12u) & 63u, low.x, low.y);
                add_two(place, (x >> 24u) & 63u, (y >> 4u) & 63u, low.z, low.w);
                add_two(place, (y >> 16u) & 63u, ((y >> 28u) | (z << 4u)) & 63u, high.x, high.y);
                add_two(place, (z >> 8u) & 63u, (z >> 20u) & 63u, high.z, high.w);
            }
        }
    }
    let d_all = workgroup_sum4(heads_all(d), lane);
    let m_all = heads_all(m);
    workgroupBarrier();
    let out = (wg.x * grid.y + wg.y) * 64u * COLUMNS;
    for (var i = lane; i < 64u * COLUMNS; i += WG) { // [LOOKUPS][64][HEADS]
        let its = column_place(i / (64u * HEADS) * HEADS + i % HEADS);
        mass[out + i] = sh_mass[its.x + i / HEADS % 64u * its.y];
    }
    if lane < HEADS { mass_md[(wg.x * grid.y + wg.y) * HEADS + lane] = vec2f(m_all[lane], d_all[lane]); }
}
