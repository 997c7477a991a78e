// The functions of strips_shared.wgsl for a CPU, where a rank has whole subgroups.
#import told

fn strip_of(low: mat4x4f, high: mat4x4f) -> Strip {
    return Strip(low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3], vec4f(0.0));
}

fn staged_alike(at: u32, lane: u32) -> Strip {
    return strip_of(told(sh_staged[at][lane & 3u]), told(sh_staged[at][4u + (lane & 3u)]));
}

fn weights_alike(at: u32, lane: u32) -> Strip {
    return strip_of(told(sh_weights[at][lane & 3u]), told(sh_weights[at][4u + (lane & 3u)]));
}
