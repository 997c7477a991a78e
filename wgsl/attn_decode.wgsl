// attn_decode: attention of a few new tokens to one split each of an exact cache, as partial states (see attn_merge).
//
//   s[n]          = sum_c q[t][h][c] * keys[k][start + n][c]       n < seen + t, of this split
//   partial_md    = (m, d): m = max_n s[n], d = sum_n exp(s[n] - m)
//   partial_o[c]  = sum_n exp(s[n] - m) * values[k][start + n][c]
//
//   q           f32    [T][K * GROUP][HEAD_DIM]     rotated and scaled
//   keys        f16    [K][capacity][HEAD_DIM]      packed in pairs; values likewise
//   partial_o   f32    [states][R][HEAD_DIM]        R = T * K * GROUP; state `state` + split
//   partial_md  vec2f  [states][R]
//
// A workgroup per split (x), key/value head (y) and new token (z), laid out as parts/attn_walk.wgsl says.
#import attn_walk

struct Params {
    start: u32,    // first slot
    seen: u32,     // slots that the first new token sees; each later one sees one more
    state: u32,    // partial state of the first split
    capacity: u32,
}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4f>;
@group(0) @binding(2) var<storage, read> keys: array<vec4u>;
@group(0) @binding(3) var<storage, read> values: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> partial_o: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> partial_md: array<vec2f>;

/// Four channels, from `at`, of the lane's heads; a chunk's missing last head repeats the group's last.
fn load_q(row: u32, head: u32, at: u32) -> mat4x4f {
    let a = q[((row + min(head, GROUP - 1u)) * HEAD_DIM + at) / 4u];
    let b = q[((row + min(head + 1u, GROUP - 1u)) * HEAD_DIM + at) / 4u];
    let c = q[((row + min(head + 2u, GROUP - 1u)) * HEAD_DIM + at) / 4u];
    let d = q[((row + min(head + 3u, GROUP - 1u)) * HEAD_DIM + at) / 4u];
    return transpose(mat4x4f(a, b, c, d));
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) wg: vec3u,
    @builtin(num_workgroups) grid: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let place = place_of(lane);
    let row = (wg.z * grid.y + wg.y) * GROUP;
    let split = split_of(wg.x, grid.x, params.seen + wg.z);
    let slots = (wg.y * params.capacity + params.start) * OCTETS;
    let begun = first_keys(split, slots, place);

    let held = f32(place.octet < OCTETS); // lanes past the row's end add nothing
    let at = min(place.octet, OCTETS - 1u) * 8u;
    let x = load_q(row, place.head, at) * held;
    let y = load_q(row, place.head, at + 4u) * held;
    let own = Octet(
        heads_of(x[0]), heads_of(x[1]), heads_of(x[2]), heads_of(x[3]),
        heads_of(y[0]), heads_of(y[1]), heads_of(y[2]), heads_of(y[3]),
    );
    let walked = walk(own, begun, split, slots, place, lane);
    store_all((params.state + wg.x) * grid.z * grid.y * GROUP + row, walked, place);
}
