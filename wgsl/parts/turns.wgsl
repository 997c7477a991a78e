// Rotations of a quad, four neighbouring complex numbers. The importing kernel declares QUADS and the binding
// rope_table: array<vec4f>, vec2f [256 + T/256][P] two by two (src/core/rope_table.ts).

struct Turn {
    re: vec4f,
    im: vec4f,
}

fn turn_mul(x: Turn, y: Turn) -> Turn {
    return Turn(x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re);
}

fn turn_row(row: u32, quad: u32) -> Turn {
    let a = rope_table[(row * QUADS + quad) * 2u];
    let b = rope_table[(row * QUADS + quad) * 2u + 1u];
    return Turn(vec4f(a.xz, b.xz), vec4f(a.yw, b.yw));
}

/// exp(i * position * theta) of the quad's pairs
fn turn_at(position: u32, quad: u32) -> Turn {
    return turn_mul(turn_row(position & 255u, quad), turn_row(256u + (position >> 8u), quad));
}
