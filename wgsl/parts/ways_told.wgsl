// The functions of ways_shared.wgsl for a CPU: columns told are of two pairs, or of two words.
#import told

fn inner_of(sums: Two, re: mat4x4f, im: mat4x4f, u: u32, v: u32) -> Two {
    let a = unpack2x16float(u);
    let b = unpack2x16float(v);
    return Two(sums.u + re * a.x + im * a.y, sums.v + re * b.x + im * b.y);
}

/// |w|^2 - 2<x,w> of the words in row `row` and 64 rows on, over pairs [pair, pair + pairs).
fn offsets(row: u32, pair: u32, pairs: u32, gram_at: u32, lane: u32) -> Two {
    let next = (lane >> 2u) & 1u;
    let column = lane & 3u;
    var sums: Two;
    for (var d = pair; d < pair + pairs; d += 4u) {
        let u = table[(row * PAIRS + d) >> 2u];
        let v = table[((row + 64u) * PAIRS + d) >> 2u];
        let re = told(sh_left[d + next].re[column]);
        let im = told(sh_left[d + next].im[column]);
        sums = inner_of(sums, re.low, im.low, u.x, v.x);
        sums = inner_of(sums, re.high, im.high, u.y, v.y);
        let re_on = told(sh_left[d + 2u + next].re[column]);
        let im_on = told(sh_left[d + 2u + next].im[column]);
        sums = inner_of(sums, re_on.low, im_on.low, u.z, v.z);
        sums = inner_of(sums, re_on.high, im_on.high, u.w, v.w);
    }
    return Two(plus(sums.u * -2.0, gram[gram_at]), plus(sums.v * -2.0, gram[gram_at + 64u]));
}

/// The least of v_b's offset and its product with u_a, over b. Products of a are 64 apart from `at` on.
fn nearest_of(at: u32, lane: u32) -> mat4x4f {
    let none = vec4f(F32_HIGHEST);
    var nearest = mat4x4f(none, none, none, none);
    for (var b = 0u; b < 64u; b += 2u) {
        let two = told(sh_offset[b + ((lane >> 2u) & 1u)][lane & 3u]);
        nearest = least_of(nearest, plus(two.low, gram[at + b * 64u]));
        nearest = least_of(nearest, plus(two.high, gram[at + b * 64u + 64u]));
    }
    return nearest;
}

/// How many of a token's cells, from `begin` on, have errors below each of four. A token has whole subgroups.
fn cells_below(own: vec4f, begin: u32, lane: u32) -> vec4u {
    var rank = vec4u();
    for (var i = begin; i < begin + ROOM; i += 8u) {
        let error = sh_errors[i + (lane & 7u)];
        rank += vec4u(vec4f(subgroupBroadcast(error, 0u)) < own) + vec4u(vec4f(subgroupBroadcast(error, 1u)) < own) +
            vec4u(vec4f(subgroupBroadcast(error, 2u)) < own) + vec4u(vec4f(subgroupBroadcast(error, 3u)) < own) +
            vec4u(vec4f(subgroupBroadcast(error, 4u)) < own) + vec4u(vec4f(subgroupBroadcast(error, 5u)) < own) +
            vec4u(vec4f(subgroupBroadcast(error, 6u)) < own) + vec4u(vec4f(subgroupBroadcast(error, 7u)) < own);
    }
    return rank;
}
