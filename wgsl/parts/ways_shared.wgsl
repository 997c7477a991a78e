// What every lane of code_beam reads alike of workgroup memory: by each lane, as a GPU does at no cost.

fn left_re(d: u32, lane: u32) -> mat4x4f {
    return sh_left[d].re;
}

fn left_im(d: u32, lane: u32) -> mat4x4f {
    return sh_left[d].im;
}

fn offset_of(b: u32, lane: u32) -> mat4x4f {
    return sh_offset[b];
}
