// embed: rows of a matrix of any weight type, as numbers.
//
//   out[t][c] = weights[ids[t]][c]    where this part of the matrix, `rows` rows from `first` on, has row ids[t]
//
//   weights, scales   [rows][cols]: src/core/weight_layout.ts
//   ids    u32  [T]
//   out    f32  [T][cols]
//
// A lane makes a unit of 16 columns; y and then z go along T. Rows of out whose row lies elsewhere are left alone.
#import weight_q8_0 // @param WEIGHT

const WG: u32 = 64u;

struct Params {
    tokens: u32,
    first: u32,
    rows: u32,
    units: u32, // of a row
    quads: u32, // cols / 4
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> ids: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4f>;

fn put(token: u32, quad: u32, value: vec4f) {
    if quad < params.quads { out[token * params.quads + quad] = value; }
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) at: vec3u, @builtin(num_workgroups) grid: vec3u) {
    let unit = at.x;
    let token = at.y + at.z * grid.y;
    if unit >= params.units || token >= params.tokens { return; }
    let row = ids[token] - params.first; // wraps around below the first
    if row >= params.rows { return; }
    let values = weight16(row * params.units + unit);
    put(token, 4u * unit, values[0]);
    put(token, 4u * unit + 1u, values[1]);
    put(token, 4u * unit + 2u, values[2]);
    put(token, 4u * unit + 3u, values[3]);
}
