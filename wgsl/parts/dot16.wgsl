// Sixteen numbers as the columns of a matrix.

fn dot16(a: mat4x4f, b: mat4x4f) -> f32 {
    let p = a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
    return (p.x + p.y) + (p.z + p.w);
}

fn sum16(a: mat4x4f) -> f32 {
    let p = (a[0] + a[1]) + (a[2] + a[3]);
    return (p.x + p.y) + (p.z + p.w);
}
