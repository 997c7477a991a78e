// The functions of ways_shared.wgsl for a CPU.
#import told

fn left_re(d: u32, lane: u32) -> mat4x4f {
    return told(sh_left[d].re[lane & 3u]);
}

fn left_im(d: u32, lane: u32) -> mat4x4f {
    return told(sh_left[d].im[lane & 3u]);
}

fn offset_of(b: u32, lane: u32) -> mat4x4f {
    return told(sh_offset[b][lane & 3u]);
}
