// copy: the yardstick of every bench, the most that a kernel here moves.
//
//   target[i] = source[i]     vec4u  [count]
//
// A lane copies four words of 16 bytes, a workgroup's width apart.
const WG: u32 = 256u; // @param lanes per workgroup

struct Params {
    count: u32,
    width: u32, // workgroups along x
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> source: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> copied: array<vec4u>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
    let at = (wg.y * params.width + wg.x) * 4u * WG + lane;
    let a = source[at];
    let b = source[at + WG];
    let c = source[at + 2u * WG];
    let d = source[at + 3u * WG];
    if at < params.count { copied[at] = a; }
    if at + WG < params.count { copied[at + WG] = b; }
    if at + 2u * WG < params.count { copied[at + 2u * WG] = c; }
    if at + 3u * WG < params.count { copied[at + 3u * WG] = d; }
}
