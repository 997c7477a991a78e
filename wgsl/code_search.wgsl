// code_search: words in the space that they are compared in, rounded to half precision again.
//
//   search[h][row][c] = sum_j table[h][row][j] metric[h][j][c]
//
//   table, search  u32  [H][rows][PAIRS]        two halves each; rows are a multiple of 8
//   metric         u32  [H][HEAD_DIM][PAIRS]    two halves each
//
// A lane makes one pair of 8 rows: x covers pairs and eights of rows, y heads. What half precision cannot hold is clamped
// to its largest.
#import halves
#import table_shared // @param TABLE table_shared or table_told

const WG: u32 = 64u;
const HEAD_DIM: u32 = 128u; // @param channels per head, a multiple of 8
const PAIRS: u32 = HEAD_DIM / 2u;
const QUADS: u32 = PAIRS / 4u;
const ROWS: u32 = 8u;

struct Params {
    rows: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> table: array<vec4u>;
@group(0) @binding(2) var<storage, read> metric: array<u32>;
@group(0) @binding(3) var<storage, read_write> search: array<u32>;

/// Rows j and j + 1 of a pair of the metric's columns.
fn columns(at: u32) -> mat2x2f {
    return mat2x2f(unpack2x16float(metric[at]), unpack2x16float(metric[at + PAIRS]));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let item = wg.x * WG + lane;
    if item >= params.rows / ROWS * PAIRS { return; }
    let pair = item % PAIRS;
    let row = wg.y * params.rows + item / PAIRS * ROWS;
    var sums: array<vec2f, ROWS>;
    for (var q = 0u; q < QUADS; q++) {
        let at = (wg.y * HEAD_DIM + q * 8u) * PAIRS + pair;
        let m0 = columns(at);
        let m1 = columns(at + 2u * PAIRS);
        let m2 = columns(at + 4u * PAIRS);
        let m3 = columns(at + 6u * PAIRS);
        for (var r = 0u; r < ROWS; r++) {
            let word = table_alike((row + r) * QUADS + q, lane);
            sums[r] += m0 * unpack2x16float(word.x) + m1 * unpack2x16float(word.y) + m2 * unpack2x16float(word.z) +
                m3 * unpack2x16float(word.w);
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        search[(row + r) * PAIRS + pair] = pack2x16float(clamp(sums[r], vec2f(-F16_HIGHEST), vec2f(F16_HIGHEST)));
    }
}
