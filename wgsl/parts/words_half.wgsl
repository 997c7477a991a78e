// Four neighbouring complex numbers of a table row, stored in half precision and added up in f32. The importing kernel
// declares the binding table: array<TableQuad>.

alias TableQuad = vec4u;

struct Words {
    re: vec4f,
    im: vec4f,
}

fn words_none() -> Words {
    return Words(vec4f(), vec4f());
}

fn words_at(at: u32) -> Words {
    let x = table[at];
    let a = unpack2x16float(x.x);
    let b = unpack2x16float(x.y);
    let c = unpack2x16float(x.z);
    let d = unpack2x16float(x.w);
    return Words(vec4f(a.x, b.x, c.x, d.x), vec4f(a.y, b.y, c.y, d.y));
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
