// Random numbers by counter: four words of bits for every four words of counter, the same on every device
// (pcg4d: Jarzynski and Olano, "Hash Functions for GPU Rendering", 2020). src/ref/random.ts is its twin.
fn random4(counter: vec4u) -> vec4u {
    var v = counter * 1664525u + 1013904223u;
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    v ^= v >> vec4u(16u);
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    return v;
}
