// The functions of ways_shared.wgsl for a CPU, whose lanes read one after the other: four lanes read a column each and
// tell the others. Lanes of a subgroup are consecutive, and there are at least four of them.

fn told(own: vec4f) -> mat4x4f {
    return mat4x4f(subgroupBroadcast(own, 0u), subgroupBroadcast(own, 1u), subgroupBroadcast(own, 2u),
        subgroupBroadcast(own, 3u));
}

fn left_re(d: u32, lane: u32) -> mat4x4f {
    return told(sh_left[d].re[lane & 3u]);
}

fn left_im(d: u32, lane: u32) -> mat4x4f {
    return told(sh_left[d].im[lane & 3u]);
}

fn offset_of(b: u32, lane: u32) -> mat4x4f {
    return told(sh_offset[b][lane & 3u]);
}
