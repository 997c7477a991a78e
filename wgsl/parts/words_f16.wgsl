// Four neighbouring complex numbers of a table row, added up in half precision, two to a machine word. Sums are exact
// where words lie on a grid that half precision resolves at their size. The importing kernel declares the binding
// table: array<TableQuad>.

alias TableQuad = vec4u;

struct Words {
    low: vec4<f16>,
    high: vec4<f16>,
}

fn words_none() -> Words {
    return Words(vec4<f16>(), vec4<f16>());
}

fn words_at(at: u32) -> Words {
    let x = table[at];
    let low = vec4f(unpack2x16float(x.x), unpack2x16float(x.y));
    let high = vec4f(unpack2x16float(x.z), unpack2x16float(x.w));
    return Words(vec4<f16>(low), vec4<f16>(high));
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
