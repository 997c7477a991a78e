// Scores between lanes. A group is TOKEN_LANES consecutive lanes (a power of two, at least four), each with its part of
// four tokens' scores; a quad is four consecutive lanes, one for each of those tokens. The importing kernel declares
// Heads, WG, TOKEN_LANES and the scratch sh_heads: array<Heads, 4u * WG>. Call from uniform flow only.

struct Four {
    a: Heads,
    b: Heads,
    c: Heads,
    d: Heads,
}

fn scores_begin() {}

/// The group's sum of the parts that belong to token `lane & 3`.
fn scores_sum(part: Four, lane: u32) -> Heads {
    workgroupBarrier(); // the previous call may still be reading
    sh_heads[4u * lane] = part.a;
    sh_heads[4u * lane + 1u] = part.b;
    sh_heads[4u * lane + 2u] = part.c;
    sh_heads[4u * lane + 3u] = part.d;
    workgroupBarrier();
    let first = 4u * (lane & ~(TOKEN_LANES - 1u)) + (lane & 3u);
    var sum = Heads(0.0);
    for (var i = 0u; i < TOKEN_LANES; i++) { sum += sh_heads[first + 4u * i]; }
    return sum;
}

/// The largest of a quad.
fn quad_max(x: Heads, lane: u32) -> Heads {
    let all = quad_all(x, lane);
    return max(max(all.a, all.b), max(all.c, all.d));
}

/// All four of a quad.
fn quad_all(x: Heads, lane: u32) -> Four {
    workgroupBarrier();
    sh_heads[lane] = x;
    workgroupBarrier();
    let first = lane & ~3u;
    return Four(sh_heads[first], sh_heads[first + 1u], sh_heads[first + 2u], sh_heads[first + 3u]);
}
