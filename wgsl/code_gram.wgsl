// code_gram: what the exact search needs of stages' words beside the words themselves.
//
//   a pair stage   |u_a|^2 [64], |v_b|^2 [64], 2<u_a,v_b> [64 b][64 a]
//   a sub stage    |w|^2 over each group's columns [groups][256]
//
//   table  u32  [H][rows][PAIRS]    two halves each; the first stage begins at row `row` of every head's `rows`
//   gram   f32  [H][stride]         its part begins at `at` of every head's `stride` numbers
//
// Workgroup y is the head, z one of the stages, which are alike. Workgroup x makes 64 lengths, a lane each; or, past a
// pair stage's lengths, lane a the products of u_a with 8 words v_b.
#import table_shared // @param TABLE table_shared or table_told

const WG: u32 = 64u;
const HEAD_DIM: u32 = 128u; // @param channels per head, a multiple of 8
const GROUP: u32 = 0u;      // @param pairs of a sub stage's group, a multiple of 4; 0 for a pair stage
const QUADS: u32 = HEAD_DIM / 8u;
const WORDS: u32 = 8u;

struct Params {
    rows: u32,
    row: u32,
    stride: u32,
    at: u32,
    stage_rows: u32,
    stage_gram: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> table: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> gram: array<f32>;

fn product(a: vec4u, b: vec4u) -> f32 {
    return dot(unpack2x16float(a.x), unpack2x16float(b.x)) + dot(unpack2x16float(a.y), unpack2x16float(b.y)) +
        dot(unpack2x16float(a.z), unpack2x16float(b.z)) + dot(unpack2x16float(a.w), unpack2x16float(b.w));
}

fn length_squared(row: u32, quad: u32, quads: u32) -> f32 {
    var sum = 0.0;
    for (var q = quad; q < quad + quads; q++) {
        let word = table[row * QUADS + q];
        sum += product(word, word);
    }
    return sum;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first = wg.y * params.rows + params.row + wg.z * params.stage_rows;
    let to = wg.y * params.stride + params.at + wg.z * params.stage_gram + lane;
    if GROUP > 0u { // four workgroups a group
        let word = first + (wg.x & 3u) * WG + lane;
        gram[to + wg.x * WG] = length_squared(word, (wg.x >> 2u) * (GROUP / 4u), GROUP / 4u);
    } else if wg.x < 2u {
        gram[to + wg.x * WG] = length_squared(first + wg.x * WG + lane, 0u, QUADS);
    } else {
        let b = (wg.x - 2u) * WORDS;
        var sums: array<f32, WORDS>;
        for (var q = 0u; q < QUADS; q++) {
            let u = table[(first + lane) * QUADS + q];
            for (var i = 0u; i < WORDS; i++) { sums[i] += product(u, table_alike((first + 64u + b + i) * QUADS + q, lane)); }
        }
        for (var i = 0u; i < WORDS; i++) { gram[to + (2u + b + i) * WG] = 2.0 * sums[i]; }
    }
}
