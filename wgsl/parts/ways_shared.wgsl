// What code_beam adds up of what all its lanes read alike: each lane reads it, as a GPU does at no cost.

fn inner_of(sums: Two, d: u32, u: u32, v: u32) -> Two {
    let re = sh_left[d].re;
    let im = sh_left[d].im;
    let a = unpack2x16float(u);
    let b = unpack2x16float(v);
    return Two(sums.u + re * a.x + im * a.y, sums.v + re * b.x + im * b.y);
}

/// |w|^2 - 2<x,w> of the words in row `row` and 64 rows on, over pairs [pair, pair + pairs).
fn offsets(row: u32, pair: u32, pairs: u32, gram_at: u32, lane: u32) -> Two {
    var sums: Two;
    for (var d = pair; d < pair + pairs; d += 4u) {
        let u = table[(row * PAIRS + d) >> 2u];
        let v = table[((row + 64u) * PAIRS + d) >> 2u];
        sums = inner_of(sums, d, u.x, v.x);
        sums = inner_of(sums, d + 1u, u.y, v.y);
        sums = inner_of(sums, d + 2u, u.z, v.z);
        sums = inner_of(sums, d + 3u, u.w, v.w);
    }
    return Two(plus(sums.u * -2.0, gram[gram_at]), plus(sums.v * -2.0, gram[gram_at + 64u]));
}

/// The least of v_b's offset and its product with u_a, over b. Products of a are 64 apart from `at` on.
fn nearest_of(at: u32, lane: u32) -> mat4x4f {
    let none = vec4f(F32_HIGHEST);
    var nearest = mat4x4f(none, none, none, none);
    for (var b = 0u; b < 64u; b += 4u) {
        let g = at + b * 64u;
        nearest = least_of(nearest, plus(sh_offset[b], gram[g]));
        nearest = least_of(nearest, plus(sh_offset[b + 1u], gram[g + 64u]));
        nearest = least_of(nearest, plus(sh_offset[b + 2u], gram[g + 128u]));
        nearest = least_of(nearest, plus(sh_offset[b + 3u], gram[g + 192u]));
    }
    return nearest;
}

/// How many of a token's cells, from `begin` on, have errors below each of four.
fn cells_below(own: vec4f, begin: u32, lane: u32) -> vec4u {
    var rank = vec4u();
    for (var i = begin; i < begin + ROOM; i += 4u) {
        rank += vec4u(vec4f(sh_errors[i]) < own) + vec4u(vec4f(sh_errors[i + 1u]) < own) +
            vec4u(vec4f(sh_errors[i + 2u]) < own) + vec4u(vec4f(sh_errors[i + 3u]) < own);
    }
    return rank;
}
