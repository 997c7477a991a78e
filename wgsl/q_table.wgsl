// q_table: every word times every query, for scores by the paper's commuted form (CommVQ, section 4).
//
//   out[h][row][d] = conj(q[h][d]) * table[h / GROUP][row][d]
//
//   q      f32    [Q][HEAD_DIM]      channels d and d + P are pair d
//   table  u32    [K][rows][P]       complex numbers in half precision
//   out    f32    [Q][rows][P][2]
//
// A lane takes four pairs of a row: x covers rows and quads, y query heads.
#import words_half

const WG: u32 = 64u;         // @param lanes per workgroup
const HEAD_DIM: u32 = 128u;  // @param channels per head, a multiple of 8
const GROUP: u32 = 4u;       // @param query heads per key/value head
const QUADS: u32 = HEAD_DIM / 8u;

struct Params {
    rows: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4f>;
@group(0) @binding(2) var<storage, read> table: array<TableQuad>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let item = wg.x * WG + lane;
    if item >= params.rows * QUADS { return; }
    let quad = item % QUADS;
    let q_re = q[wg.y * 2u * QUADS + quad];
    let q_im = q[wg.y * 2u * QUADS + QUADS + quad];
    let word = words_at(wg.y / GROUP * params.rows * QUADS + item);
    let re = words_re(word) * q_re + words_im(word) * q_im;
    let im = words_im(word) * q_re - words_re(word) * q_im;
    let to = (wg.y * params.rows * QUADS + item) * 2u;
    out[to] = vec4f(re.x, im.x, re.y, im.y);
    out[to + 1u] = vec4f(re.z, im.z, re.w, im.w);
}
