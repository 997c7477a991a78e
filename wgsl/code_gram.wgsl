// code_gram: what the exact search needs of a stage's words beside the words themselves.
//
//   a pair stage   |u_a|^2 [64], |v_b|^2 [64], 2<u_a,v_b> [64 b][64 a]
//   a sub stage    |w|^2 over each group's columns [groups][256]
//
//   table  u32  [H][rows][PAIRS]    two halves each; the stage begins at row `row` of every head's `rows`
//   gram   f32  [H][stride]         the stage's part begins at `at` of every head's `stride` numbers
//
// One lane per number: workgroup x is 64 of them, y the head.
const WG: u32 = 64u;
const HEAD_DIM: u32 = 128u; // @param channels per head
const GROUP: u32 = 0u;      // @param pairs of a sub stage's group; 0 for a pair stage
const PAIRS: u32 = HEAD_DIM / 2u;

struct Params {
    rows: u32,
    row: u32,
    stride: u32,
    at: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> table: array<u32>;
@group(0) @binding(2) var<storage, read_write> gram: array<f32>;

fn inner(a: u32, b: u32, pair: u32, pairs: u32) -> f32 {
    var sum = 0.0;
    for (var d = pair; d < pair + pairs; d++) {
        sum += dot(unpack2x16float(table[a * PAIRS + d]), unpack2x16float(table[b * PAIRS + d]));
    }
    return sum;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let first = wg.y * params.rows + params.row;
    var value: f32;
    if GROUP > 0u { // four workgroups a group
        let word = first + (wg.x & 3u) * 64u + lane;
        value = inner(word, word, (wg.x >> 2u) * GROUP, GROUP);
    } else if wg.x < 2u {
        let word = first + wg.x * 64u + lane;
        value = inner(word, word, 0u, PAIRS);
    } else {
        value = 2.0 * inner(first + lane, first + 62u + wg.x, 0u, PAIRS);
    }
    gram[wg.y * params.stride + params.at + wg.x * WG + lane] = value;
}
