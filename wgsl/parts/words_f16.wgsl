// Four neighbouring complex numbers of a table row, added up in half precision, two to a machine word. Sums are exact
// where words lie on a grid that half precision resolves at their size. The importing kernel declares the binding
// table: array<TableQuad>.

struct TableQuad {
    low: vec4<f16>, // re, im, re, im
    high: vec4<f16>,
}

struct Words {
    low: vec4<f16>,
    high: vec4<f16>,
}

fn words_none() -> Words {
    return Words(vec4<f16>(), vec4<f16>());
}

fn words_at(at: u32) -> Words {
    let x = table[at];
    return Words(x.low, x.high);
}

fn words_add(x: Words, y: Words) -> Words {
    return Words(x.low + y.low, x.high + y.high);
}

fn words_re(x: Words) -> vec4f {
    return vec4f(vec4<f16>(x.low.xz, x.high.xz));
}

fn words_im(x: Words) -> vec4f {
    return vec4f(vec4<f16>(x.low.yw, x.high.yw));
}
