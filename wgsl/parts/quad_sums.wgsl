// Sums of a quad for every head, each lane its own, and their fold over a workgroup's groups of TOKEN_LANES lanes. The
// importing kernel declares Heads, WG, TOKEN_LANES, GROUPS (a multiple of 4) and the scratch
// sh_heads: array<Heads, 2u * WG>.

struct Sums {
    re0: Heads,
    re1: Heads,
    re2: Heads,
    re3: Heads,
    im0: Heads,
    im1: Heads,
    im2: Heads,
    im3: Heads,
}

fn sums_none() -> Sums {
    let none = Heads();
    return Sums(none, none, none, none, none, none, none, none);
}

/// x + w y
fn sums_add(x: Sums, w: Heads, y: Words) -> Sums {
    let re = words_re(y);
    let im = words_im(y);
    return Sums(
        fma(w, Heads(re.x), x.re0),
        fma(w, Heads(re.y), x.re1),
        fma(w, Heads(re.z), x.re2),
        fma(w, Heads(re.w), x.re3),
        fma(w, Heads(im.x), x.im0),
        fma(w, Heads(im.y), x.im1),
        fma(w, Heads(im.z), x.im2),
        fma(w, Heads(im.w), x.im3),
    );
}

/// What all groups hold of x (for group 0) or y (for group 1) at the lane's place.
fn fold_two(x: Heads, y: Heads, lane: u32) -> Heads {
    workgroupBarrier(); // the previous call may still be reading
    sh_heads[lane] = x;
    sh_heads[WG + lane] = y;
    workgroupBarrier();
    var sum = Heads();
    if lane < 2u * TOKEN_LANES {
        let first = lane / TOKEN_LANES * WG + lane % TOKEN_LANES;
        for (var i = 0u; i < GROUPS; i += 4u) {
            let at = first + i * TOKEN_LANES;
            sum += (sh_heads[at] + sh_heads[at + TOKEN_LANES]) +
                (sh_heads[at + 2u * TOKEN_LANES] + sh_heads[at + 3u * TOKEN_LANES]);
        }
    }
    return sum;
}

/// Folds the groups' sums and writes them as numbers `4 quad` to `4 quad + 3` and their imaginary parts of output rows
/// `row` on, for those of `heads` heads that there are.
fn sums_store(x: Sums, row: u32, heads: u32, quad: u32, held: bool, lane: u32) {
    let even = fold_two(x.re0, x.re1, lane);
    let odd = fold_two(x.re2, x.re3, lane);
    let even_im = fold_two(x.im0, x.im1, lane);
    let odd_im = fold_two(x.im2, x.im3, lane);
    if lane >= 2u * TOKEN_LANES || !held { return; }
    let re = mat2x4f(heads_all(even), heads_all(odd));
    let im = mat2x4f(heads_all(even_im), heads_all(odd_im));
    let at = row * HEAD_DIM + 4u * quad + lane / TOKEN_LANES;
    for (var h = 0u; h < min(HEADS, heads); h++) {
        partial_o[at + h * HEAD_DIM] = re[0][h];
        partial_o[at + h * HEAD_DIM + 2u] = re[1][h];
        partial_o[at + h * HEAD_DIM + HEAD_DIM / 2u] = im[0][h];
        partial_o[at + h * HEAD_DIM + HEAD_DIM / 2u + 2u] = im[1][h];
    }
}
