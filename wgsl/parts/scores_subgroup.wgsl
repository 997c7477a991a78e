// The functions of scores.wgsl on subgroups: lanes of a subgroup are consecutive, and there are at least four of them.
// A group wider than a subgroup adds up its subgroups' sums through sh_heads.

struct Four {
    a: Heads,
    b: Heads,
    c: Heads,
    d: Heads,
}

var<private> subgroup_lanes: u32;

/// Call first.
fn scores_begin() {
    subgroup_lanes = subgroupAdd(1u); // lanes present: a workgroup below the subgroup size counts as whole
}

/// Two folds leave each lane of a quad with one token: lanes that differ in a bit swap halves of what they hold.
fn scores_sum(part: Four, lane: u32) -> Heads {
    let odd = (lane & 1u) != 0u;
    let ab = select(part.a, part.b, odd) + subgroupShuffleXor(select(part.b, part.a, odd), 1u);
    let cd = select(part.c, part.d, odd) + subgroupShuffleXor(select(part.d, part.c, odd), 1u);
    let upper = (lane & 2u) != 0u;
    var sum = select(ab, cd, upper) + subgroupShuffleXor(select(cd, ab, upper), 2u);
    if subgroup_lanes >= TOKEN_LANES {
        if TOKEN_LANES > 4u { sum += subgroupShuffleXor(sum, 4u); }
        if TOKEN_LANES > 8u { sum += subgroupShuffleXor(sum, 8u); }
        if TOKEN_LANES > 16u { sum += subgroupShuffleXor(sum, 16u); }
        return sum;
    }
    workgroupBarrier(); // the previous call may still be reading
    sh_heads[lane] = sum;
    workgroupBarrier();
    let first = (lane & ~(TOKEN_LANES - 1u)) + (lane & 3u);
    sum = Heads(0.0);
    for (var i = 0u; i < TOKEN_LANES; i += 4u) { sum += sh_heads[first + i]; }
    return sum;
}

fn quad_max(x: Heads, lane: u32) -> Heads {
    let pair = max(x, subgroupShuffleXor(x, 1u));
    return max(pair, subgroupShuffleXor(pair, 2u));
}

fn quad_all(x: Heads, lane: u32) -> Four {
    let first = lane & (subgroup_lanes - 1u) & ~3u;
    return Four(
        subgroupShuffle(x, first),
        subgroupShuffle(x, first + 1u),
        subgroupShuffle(x, first + 2u),
        subgroupShuffle(x, first + 3u),
    );
}
