// code_pack: packs codes that lie token by token (src/core/pack.ts).
//
//   raw     u32    [K][capacity][32][FIELDS]
//   fields  vec4u  [FIELDS]              only the last entry is read: 0 for a field of 12 bits, else 8
//   codes   u32    [blocks][K][bits]     blocks from `block` on; tokens past the last have code 0
//
// One workgroup of 64 lanes per block of 32 tokens (x) and head (y), a lane per word of a field.
#import pack_codes

const LANES: u32 = 64u;
const FIELDS: u32 = 21u; // @param codes of a token

struct Params {
    tokens: u32,
    capacity: u32,
    bits: u32,
    block: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> raw: array<u32>;
@group(0) @binding(2) var<storage, read> fields: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> codes: array<u32>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) wg: vec3u,
    @builtin(num_workgroups) grid: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let tokens = params.tokens - wg.x * 32u;
    let at = (wg.y * params.capacity + wg.x) * 32u;
    var to = ((params.block + wg.x) * grid.y + wg.y) * params.bits;
    for (var f = 0u; f < FIELDS; f++) {
        workgroupBarrier(); // the previous field may still be read
        if lane < 32u { sh_code[lane] = raw[(at + lane) * FIELDS + f]; }
        workgroupBarrier();
        let bits = select(8u, 12u, fields[f].w == 0u);
        if lane < bits { codes[to + lane] = packed(lane, bits, tokens); }
        to += bits;
    }
}
