// em_accumulate: what the M step needs, a chunk of tokens at a time: weighted sums of residuals by word, counts, errors.
//
//   sums[h][chunk] = [ROWS][HEAD_DIM]  sum_t weight(t, word) * x_t
//                    [CELLS]           tokens of each code: [64 a][64 b], or [groups][256]; not written where SOFT
//                    [4]               sum_t d_t, sum_t d_t * scale_t^2, 0, 0
//
//   residual   f32  [H][blocks][HEAD_DIM][32]
//   codes      u32  [H][groups][blocks][32]     weight 1 for these, NONE for none; not read where SOFT
//   weights    f32  [H][blocks][32][128]        read where SOFT
//   distances  f32  [H][blocks][32]
//   scales     f16  [blocks][32], packed in pairs
//   sums       f32  [H][chunks][WIDTH]
//
// A workgroup of 32 lanes per chunk (x), slice of 32 components by 128 rows (y; the last is counts and errors), head (z).
// A lane alone adds to its column of workgroup memory, token after token, so no atomics and one order of sums.
#import reduce

const WG: u32 = 32u;
const HEAD_DIM: u32 = 128u; // @param channels per head
const GROUP: u32 = 0u;      // @param pairs of a sub stage's group; 0 for a pair stage
const SOFT: bool = false;   // @param weights instead of codes
const CHUNK: u32 = 1024u;   // @param tokens of a chunk, a multiple of 32
const PAIRS: u32 = HEAD_DIM / 2u;
const SUB: bool = GROUP > 0u;
const SPAN: u32 = select(PAIRS, GROUP, SUB);
const GROUPS: u32 = PAIRS / SPAN;
const ROWS: u32 = select(128u, 256u, SUB);
const CELLS: u32 = select(4096u, 256u * GROUPS, SUB);
const WIDTH: u32 = ROWS * HEAD_DIM + CELLS + 4u;
const SLICES: u32 = (HEAD_DIM + 31u) / 32u; // of components
const NONE: u32 = 0xffffffffu;

struct Params {
    tokens: u32,
    blocks: u32,
    chunks: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> residual: array<vec4f>;
@group(0) @binding(2) var<storage, read> codes: array<vec4u>;
@group(0) @binding(3) var<storage, read> weights: array<vec4f>;
@group(0) @binding(4) var<storage, read> distances: array<f32>;
@group(0) @binding(5) var<storage, read> scales: array<u32>;
@group(0) @binding(6) var<storage, read_write> sums: array<f32>;

var<workgroup> sh_sums: array<f32, 4096>; // [128 rows][32 components], or cells

fn add(x: f32, code: u32, first_row: u32, lane: u32) {
    if code == NONE { return; }
    if SUB {
        if (code & 128u) == first_row { sh_sums[(code & 127u) * 32u + lane] += x; }
    } else {
        sh_sums[(code >> 6u) * 32u + lane] += x;
        sh_sums[(64u + (code & 63u)) * 32u + lane] += x;
    }
}

/// The same for a token's 128 weights, of which all but a few are 0 once the temperature is low.
fn add_soft(x: f32, at: u32, lane: u32) {
    for (var i = 0u; i < 32u; i++) {
        let weight = weights[at + i];
        if any(weight != vec4f(0.0)) {
            sh_sums[4u * i * 32u + lane] += weight.x * x;
            sh_sums[(4u * i + 1u) * 32u + lane] += weight.y * x;
            sh_sums[(4u * i + 2u) * 32u + lane] += weight.z * x;
            sh_sums[(4u * i + 3u) * 32u + lane] += weight.w * x;
        }
    }
}

fn count(code: u32, group: u32, lane: u32) {
    if code != NONE && (code & 31u) == lane { sh_sums[group * 256u + code] += 1.0; }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let head = wg.z;
    let to = (head * params.chunks + wg.x) * WIDTH;
    let first = wg.x * CHUNK / 4u; // in quads of tokens, as is the last
    let last = min(first + CHUNK / 4u, params.blocks * 8u);
    let slice = wg.y % SLICES;
    let first_row = wg.y / SLICES * 128u;
    let component = slice * 32u + lane;

    if first_row < ROWS { // sums
        if component < HEAD_DIM {
            for (var quad = first; quad < last; quad++) {
                let x = residual[((head * params.blocks + (quad >> 3u)) * HEAD_DIM + component) * 8u + (quad & 7u)];
                if SOFT {
                    let at = (head * params.blocks * 32u + quad * 4u) * 32u;
                    let tokens = params.tokens - min(params.tokens, quad * 4u); // weights past the last are stale
                    if tokens > 0u { add_soft(x.x, at, lane); }
                    if tokens > 1u { add_soft(x.y, at + 32u, lane); }
                    if tokens > 2u { add_soft(x.z, at + 64u, lane); }
                    if tokens > 3u { add_soft(x.w, at + 96u, lane); }
                } else {
                    let code = codes[(head * GROUPS + component / 2u / SPAN) * params.blocks * 8u + quad];
                    add(x.x, code.x, first_row, lane);
                    add(x.y, code.y, first_row, lane);
                    add(x.z, code.z, first_row, lane);
                    add(x.w, code.w, first_row, lane);
                }
            }
            for (var row = 0u; row < 128u; row++) {
                sums[to + (first_row + row) * HEAD_DIM + component] = sh_sums[row * 32u + lane];
            }
        }
    } else {
        if !SOFT {
            for (var group = 0u; group < GROUPS; group++) {
                for (var quad = first; quad < last; quad++) {
                    let code = codes[(head * GROUPS + group) * params.blocks * 8u + quad];
                    count(code.x, group, lane);
                    count(code.y, group, lane);
                    count(code.z, group, lane);
                    count(code.w, group, lane);
                }
            }
            for (var cell = lane; cell < CELLS; cell += WG) { sums[to + ROWS * HEAD_DIM + cell] = sh_sums[cell]; }
        }
        var error = vec4f(0.0);
        for (var t = 4u * first + lane; t < min(params.tokens, 4u * last); t += WG) {
            let scale = unpack2x16float(scales[t >> 1u])[t & 1u];
            let d = distances[head * params.blocks * 32u + t];
            error += vec4f(d, d * scale * scale, 0.0, 0.0);
        }
        error = workgroup_sum4(error, lane);
        if lane < 4u { sums[to + ROWS * HEAD_DIM + CELLS + lane] = error[lane]; }
    }
}
