// Sums between lanes. A group is TOKEN_LANES consecutive lanes (a power of two, at least eight), each with its part of
// eight tokens' scores. The importing kernel declares Heads, WG and TOKEN_LANES. Call from uniform flow only.

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

var<workgroup> sh_fold: array<Heads, 8u * WG>;

fn fold_begin() {}

/// The group's sum of the parts that belong to token `lane & 7`.
fn fold_eight(x: Eight, lane: u32) -> Heads {
    workgroupBarrier(); // the previous call may still be reading
    sh_fold[lane] = x.a;
    sh_fold[WG + lane] = x.b;
    sh_fold[2u * WG + lane] = x.c;
    sh_fold[3u * WG + lane] = x.d;
    sh_fold[4u * WG + lane] = x.e;
    sh_fold[5u * WG + lane] = x.f;
    sh_fold[6u * WG + lane] = x.g;
    sh_fold[7u * WG + lane] = x.h;
    workgroupBarrier();
    let first = (lane & 7u) * WG + (lane & ~(TOKEN_LANES - 1u));
    var sum = Heads();
    for (var i = 0u; i < TOKEN_LANES; i++) { sum += sh_fold[first + i]; }
    return sum;
}
