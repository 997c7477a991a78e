// The functions of fold.wgsl on subgroups: lanes of a subgroup are consecutive, and there are at least four of them.
// A group wider than a subgroup adds up its quads' sums through sh_fold.

struct Eight {
    a: Heads,
    b: Heads,
    c: Heads,
    d: Heads,
    e: Heads,
    f: Heads,
    g: Heads,
    h: Heads,
}

var<private> subgroup_lanes: u32;
var<workgroup> sh_fold: array<Heads, WG>;

/// Call first.
fn fold_begin() {
    subgroup_lanes = subgroupAdd(1u); // lanes present: a workgroup below the subgroup size counts as whole
}

/// Lanes that differ in a bit swap halves of what they hold, until each is left with one token.
fn fold_eight(x: Eight, lane: u32) -> Heads {
    let odd = (lane & 1u) != 0u;
    let ab = select(x.a, x.b, odd) + subgroupShuffleXor(select(x.b, x.a, odd), 1u);
    let cd = select(x.c, x.d, odd) + subgroupShuffleXor(select(x.d, x.c, odd), 1u);
    let ef = select(x.e, x.f, odd) + subgroupShuffleXor(select(x.f, x.e, odd), 1u);
    let gh = select(x.g, x.h, odd) + subgroupShuffleXor(select(x.h, x.g, odd), 1u);
    let upper = (lane & 2u) != 0u;
    let low = select(ab, cd, upper) + subgroupShuffleXor(select(cd, ab, upper), 2u);
    let high = select(ef, gh, upper) + subgroupShuffleXor(select(gh, ef, upper), 2u);
    let last = (lane & 4u) != 0u;
    if subgroup_lanes >= TOKEN_LANES {
        var sum = select(low, high, last) + subgroupShuffleXor(select(high, low, last), 4u);
        if TOKEN_LANES > 8u { sum += subgroupShuffleXor(sum, 8u); }
        if TOKEN_LANES > 16u { sum += subgroupShuffleXor(sum, 16u); }
        return sum;
    }
    let first = (lane & ~(TOKEN_LANES - 1u)) + (lane & 3u);
    var low_sum = Heads();
    var high_sum = Heads();
    workgroupBarrier(); // the previous call may still be reading
    sh_fold[lane] = low;
    workgroupBarrier();
    for (var i = 0u; i < TOKEN_LANES; i += 4u) { low_sum += sh_fold[first + i]; }
    workgroupBarrier();
    sh_fold[lane] = high;
    workgroupBarrier();
    for (var i = 0u; i < TOKEN_LANES; i += 4u) { high_sum += sh_fold[first + i]; }
    return select(low_sum, high_sum, last);
}
