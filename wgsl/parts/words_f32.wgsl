// Four neighbouring complex numbers of a row of a q_table, stored and added up in f32. The importing kernel declares the
// binding table: array<TableQuad>.

alias TableQuad = vec4u;

struct Words {
    re: vec4f,
    im: vec4f,
}

fn words_none() -> Words {
    return Words(vec4f(), vec4f());
}

fn words_at(at: u32) -> Words {
    let a = bitcast<vec4f>(table[2u * at]);
    let b = bitcast<vec4f>(table[2u * at + 1u]);
    return Words(vec4f(a.xz, b.xz), vec4f(a.yw, b.yw));
}

fn words_add(x: Words, y: Words) -> Words {
    return Words(x.re + y.re, x.im + y.im);
}

fn words_re(x: Words) -> vec4f {
    return x.re;
}

fn words_im(x: Words) -> vec4f {
    return x.im;
}
