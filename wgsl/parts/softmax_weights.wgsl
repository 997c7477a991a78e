// Softmax weights of tokens from their scores, a chunk of query heads at a time. The importing kernel imports a heads
// part and reduce, declares WG, the binding scores: array<Heads> and what token_scale needs.
#import token_scale

/// The largest scores of tokens `[begin, end)`, over the workgroup.
fn scores_max(out: u32, begin: u32, end: u32, lane: u32) -> Heads {
    var m = Heads(F32_LOWEST);
    for (var t = begin + lane; t < end; t += WG) { m = max(m, scores[out + t]); }
    let own = heads_all(m);
    var all = vec4f(workgroup_max(own.x, lane));
    if HEADS > 1u { all.y = workgroup_max(own.y, lane); }
    if HEADS > 2u {
        all.z = workgroup_max(own.z, lane);
        all.w = workgroup_max(own.w, lane);
    }
    return heads_of(all);
}
