// The functions of strips_shared.wgsl for a CPU, where a rank has whole subgroups.
#import told

fn strip_of(own: vec4f) -> Strip {
    let x = told(own);
    return Strip(x.low[0], x.low[1], x.low[2], x.low[3], x.high[0], x.high[1], x.high[2], x.high[3], vec4f(0.0));
}

fn staged_alike(at: u32, lane: u32) -> Strip {
    return strip_of(sh_staged[at][lane & 7u]);
}

fn weights_alike(at: u32, lane: u32) -> Strip {
    return strip_of(sh_weights[at][lane & 7u]);
}
